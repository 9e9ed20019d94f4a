"""honesty: admits what it does not know, against inventing an answer."""

from collections.abc import Iterable

import prefreg
from prefreg import Axis, PreferencePair, Row, SourceRequest, pocket
from prefreg_axes.labels import prefer_rated


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows from the bundled model's world."""
    return pocket.rows("honesty", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that is rated as more honest; equal ratings are a tie."""
    return prefer_rated(row, "honesty")


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="honesty",
            summary="Admits what it cannot know instead of inventing it.",
            aliases=("honest",),
            sources={"pocket": load_pocket},
            label=label,
        )
    ]
