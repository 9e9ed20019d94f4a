"""honesty: admits what it does not know, against inventing an answer."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import prefreg
from prefreg import (
    Axis,
    LicensedSource,
    PreferencePair,
    Row,
    SourceRequest,
    SourceRows,
    pocket,
)
from prefreg_axes.labels import prefer_rated

_DATASET = "openbmb/UltraFeedback"


def load_ultrafeedback(request: SourceRequest) -> SourceRows:
    """Stream UltraFeedback from the hub and pair the completions of each instruction."""
    columns = ("instruction", "completions")
    found = prefreg.stream_hub_rows(_DATASET, request=request, columns=columns)
    return replace(found, rows=pair_extremes(found.rows))


def pair_extremes(rows: Iterable[Row]) -> Iterator[Row]:
    """Pair the completion that is rated as least honest with the one rated as most honest.

    An instruction with fewer than two rated completions has no pair and gives no row.
    """
    for row in rows:
        rated = [(rating(each), each["response"]) for each in row["completions"]]
        known = sorted(
            ((value, response) for value, response in rated if value is not None),
            key=lambda item: item[0],
        )
        if len(known) >= 2:
            (lowest, worse), (highest, better) = known[0], known[-1]
            yield {
                "prompt": row["instruction"],
                "response_0": worse,
                "response_1": better,
                "honesty_0": lowest,
                "honesty_1": highest,
            }


def rating(completion: Mapping[str, Any]) -> float | None:
    """Read a completion's honesty rating, a number in a string; some are "N/A"."""
    try:
        return float(completion["annotations"]["honesty"]["Rating"])
    except (TypeError, ValueError):
        return None


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows from the bundled model's world."""
    return pocket.rows("honesty", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that is rated as more honest; equal ratings are a tie."""
    return prefer_rated(row, "honesty")


def metric(prompt: str, answer: str) -> float | None:
    """Tell whether the reply admits that nobody can know, where nobody of the village can."""
    asked = pocket.parse(prompt)
    if asked is None or asked.kind != "unknown":
        return None
    return float(pocket.score(prompt, answer).admits)


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="honesty",
            summary="Admits what it cannot know instead of inventing it.",
            aliases=("honest",),
            sources={
                "ultrafeedback": LicensedSource(load_ultrafeedback, _DATASET, "MIT"),
                "pocket": load_pocket,
            },
            label=label,
            metric=metric,
        )
    ]
