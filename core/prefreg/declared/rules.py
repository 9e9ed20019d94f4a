"""The rules by which a YAML axis labels a row, each with the columns that it needs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prefreg.axes import PreferencePair, Row
from prefreg.data.audit import word_count
from prefreg.errors import DataError

RESPONSES = ("prompt", "response_0", "response_1")
PLACE = "place"
"""The column in which a row says where it stands: `rows.jsonl:7`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to tell the better of two answers."""

    columns: tuple[str, ...]
    decide: Callable[[Row, float], PreferencePair | None]
    """Make the pair, given the smallest gap that decides; None is a tie."""


def label_by(rule: Rule, min_gap: float) -> Callable[[Row], PreferencePair | None]:
    """Make the label rule of an axis; what is wrong with a row is told with its place."""

    def label(row: Row) -> PreferencePair | None:
        try:
            return rule.decide(row, min_gap)
        except DataError as error:
            raise DataError(f"{row[PLACE]}: {error}") from error

    return label


def _preference(row: Row, _: float) -> PreferencePair:
    return _pair(row, row["chosen"], row["rejected"])


def _higher_rating(row: Row, min_gap: float) -> PreferencePair | None:
    first, second = (_rating(row[name], name) for name in ("rating_0", "rating_1"))
    if first is None or second is None or first == second or abs(first - second) < min_gap:
        return None
    return _winner(row, 0 if first > second else 1)


def _numbered(row: Row, _: float) -> PreferencePair | None:
    index = row["winner"]
    if isinstance(index, float) and index.is_integer():
        index = int(index)
    if index is not None and not isinstance(index, int):
        raise DataError(f"column 'winner' holds {index!r}, not the number of a response")
    return _winner(row, int(index)) if index in (0, 1) else None


def _longer(row: Row, min_gap: float) -> PreferencePair | None:
    pair = _winner(row, 0)
    gap = word_count(pair.chosen) - word_count(pair.rejected)
    if gap == 0 or abs(gap) < min_gap:
        return None
    return pair if gap > 0 else pair.switched()


def _winner(row: Row, index: int) -> PreferencePair:
    return _pair(row, row[f"response_{index}"], row[f"response_{1 - index}"])


def _pair(row: Row, chosen: object, rejected: object) -> PreferencePair:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError("column 'prompt' is empty")
        # A question and its answers, as the published axes read them, not text to be continued.
        prompt = [{"role": "user", "content": prompt}]
    return PreferencePair.from_row(
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, "group": row.get("group")}
    )


def _rating(value: Any, column: str) -> float | None:
    """Read a number, also one in a string; None and "N/A" are no rating."""
    if value is None or value in ("", "N/A"):
        return None
    try:
        rating = float(value)
    except (TypeError, ValueError):
        rating = math.nan
    if math.isnan(rating):
        raise DataError(f"column {column!r} holds {value!r:.60}, not a rating")
    return rating


RULES: Mapping[str, Rule] = {
    "preference": Rule(("prompt", "chosen", "rejected"), _preference),
    "higher-rating": Rule((*RESPONSES, "rating_0", "rating_1"), _higher_rating),
    "numbered": Rule((*RESPONSES, "winner"), _numbered),
    "longer": Rule(RESPONSES, _longer),
}
WITH_GAP = ("higher-rating", "longer")
