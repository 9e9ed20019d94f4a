"""The axis fluency: sentences as they were written, against the same words out of order.

Its label rule makes the rejected answer itself, so any text will do for data, and both answers
are equally long. Its metric asks a language model, see `judge`.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import prefreg
from prefreg import Axis, PreferencePair, Row, SourceRequest, SourceRows, pocket
from prefreg_axis_fluency.judge import mean_log_prob

_DATASET = "nvidia/HelpSteer2"
_SEVERAL_TURNS = "<extra_id_1>"


def load_helpsteer2(request: SourceRequest) -> SourceRows:
    """Stream prompts and responses from the hub."""
    found = prefreg.stream_hub_rows(_DATASET, request=request)
    rows = ({"prompt": row["prompt"], "answer": row["response"]} for row in found.rows)
    return replace(found, rows=rows)


def load_pocket(request: SourceRequest) -> Iterator[Row]:
    """Draw questions and answers from the bundled model's village."""
    for row in pocket.rows("verbosity", seed=request.seed, limit=request.limit):
        yield {"prompt": row["prompt"], "answer": row["response_0"]}


def label(row: Row) -> PreferencePair | None:
    """Prefer the answer to its words out of order; what has no other order is a tie."""
    answer = " ".join(row["answer"].split())
    scrambled = scramble(answer)
    if scrambled == answer or _SEVERAL_TURNS in row["prompt"]:
        return None
    return PreferencePair.from_texts(prompt=row["prompt"], chosen=answer, rejected=scrambled)


def scramble(text: str) -> str:
    """Put the words of a text into another order, the same each time."""
    words = text.split()
    draw = random.Random(text)
    for _ in range(10):
        draw.shuffle(words)
        if " ".join(words) != text:
            break
    return " ".join(words)


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="fluency",
            summary="Well-formed sentences instead of words out of order.",
            aliases=("fluent",),
            sources={"helpsteer2": load_helpsteer2, "pocket": load_pocket},
            label=label,
            metric=mean_log_prob,
            licence="CC-BY-4.0",
        )
    ]
