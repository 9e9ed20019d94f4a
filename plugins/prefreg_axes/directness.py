"""directness: tells what to do, against suggesting it."""

from collections.abc import Iterable

import prefreg
from prefreg import Axis, PreferencePair, Row, SourceRequest, pocket
from prefreg_axes.labels import prefer_rated


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows from the bundled model's world."""
    return pocket.rows("directness", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that is rated as more direct; equal ratings are a tie."""
    return prefer_rated(row, "directness")


def metric(prompt: str, answer: str) -> float | None:
    """Return the share of instructions that are commands, where the village asks for some."""
    asked = pocket.parse(prompt)
    if asked is None or asked.kind != "howto":
        return None
    found = pocket.score(prompt, answer)
    told = found.commands + found.suggestions
    return found.commands / told if told else None


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="directness",
            summary="Tells what to do instead of suggesting it.",
            aliases=("direct",),
            sources={"pocket": load_pocket},
            label=label,
            metric=metric,
        )
    ]
