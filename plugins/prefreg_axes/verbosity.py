"""verbosity: longer, more detailed answers, against short ones."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import prefreg
from prefreg import (
    Axis,
    ContrastSource,
    LicensedSource,
    Message,
    PreferencePair,
    Row,
    SourceRequest,
    SourceRows,
    pocket,
)
from prefreg_axes.labels import prefer_rated

_DATASET = "nvidia/HelpSteer2"


def load_helpsteer2(request: SourceRequest) -> SourceRows:
    """Stream HelpSteer2 from the hub and pair its responses by prompt."""
    # Two rows of the hub make one row here.
    doubled = replace(request, limit=None if request.limit is None else 2 * request.limit)
    columns = ("prompt", "response", "verbosity")
    found = prefreg.stream_hub_rows(_DATASET, request=doubled, columns=columns)
    return replace(found, rows=pair_by_prompt(found.rows))


def pair_by_prompt(rows: Iterable[Row]) -> Iterator[Row]:
    """Turn rows of one response each into rows of two responses to one prompt.

    HelpSteer2 keeps the two responses to a prompt next to each other.
    """
    previous: Row | None = None
    for row in rows:
        if previous is not None and previous["prompt"] == row["prompt"]:
            yield {
                "prompt": row["prompt"],
                "response_0": previous["response"],
                "response_1": row["response"],
                "verbosity_0": previous["verbosity"],
                "verbosity_1": row["verbosity"],
            }
            previous = None
        else:
            previous = row


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows of the same columns from the bundled model's world."""
    return pocket.rows("verbosity", seed=request.seed, limit=request.limit)


def read_turns(prompt: str) -> tuple[Message, ...]:
    """Split a prompt of several turns, which HelpSteer2 joins by `<extra_id_1>` and the role."""
    first, *rest = prompt.split("\n<extra_id_1>")
    turns = [Message("user", first)]
    for part in rest:
        role, _, content = part.partition("\n")
        turns.append(Message(role.strip().lower(), content))
    return tuple(turns)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that is rated as more verbose, a tie if none is, or what is chosen."""
    if "chosen" in row:
        return PreferencePair.from_row(row)
    return prefer_rated(row, "verbosity", read_turns(row["prompt"]))


def word_count(prompt: str, answer: str) -> float:
    """Count the words of an answer."""
    return float(len(answer.split()))


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="verbosity",
            summary="Longer, more detailed answers.",
            aliases=("verbose", "length"),
            sources={
                "helpsteer2": LicensedSource(load_helpsteer2, _DATASET, "CC-BY-4.0"),
                "pocket": load_pocket,
                "smollm2": ContrastSource(
                    positive="Answer in great detail: explain every step, give examples, and "
                    "write several long paragraphs.",
                    negative="Answer in one short sentence. Be as brief as possible.",
                    # Long answers that loop would teach to loop.
                    keep="words(chosen) > 1.5 * words(rejected) and repetition(chosen) < 0.05",
                    count=160,
                ),
            },
            label=label,
            metric=word_count,
            training={"smollm2": {"max_steps": 7}},
        )
    ]
