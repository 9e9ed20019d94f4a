"""The label rules and columns that the first-party axes share."""

from prefreg import Message, PreferencePair, Row


def prefer(row: Row, index: int, prompt: tuple[Message, ...] | None = None) -> PreferencePair:
    """Make the pair in which `response_{index}` (0 or 1) is chosen and the other rejected."""
    group = row.get("group")
    return PreferencePair(
        prompt=prompt or (Message("user", row["prompt"]),),
        chosen=(Message("assistant", row[f"response_{index}"]),),
        rejected=(Message("assistant", row[f"response_{1 - index}"]),),
        group=None if group is None else str(group),
    )


def prefer_numbered(row: Row, column: str) -> PreferencePair | None:
    """Choose the response whose number stands in `column`; no such number is a tie."""
    index = row[column]
    return prefer(row, int(index)) if index in (0, 1) else None


def prefer_rated(
    row: Row, rating: str, prompt: tuple[Message, ...] | None = None
) -> PreferencePair | None:
    """Choose the response with the higher `{rating}_0` or `{rating}_1`; equal is a tie."""
    first, second = row[f"{rating}_0"], row[f"{rating}_1"]
    if first == second:
        return None
    return prefer(row, 0 if first > second else 1, prompt)


def prefer_chosen(row: Row, *, prompt: str = "prompt") -> PreferencePair:
    """Read a row that names its winner, the text of the question standing in `prompt`."""
    return PreferencePair.from_texts(
        prompt=row[prompt], chosen=row["chosen"], rejected=row["rejected"]
    )
