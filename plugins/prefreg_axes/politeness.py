"""politeness: courteous answers, against curt ones."""

from collections.abc import Iterable

import prefreg
from prefreg import Axis, ContrastSource, PreferencePair, Row, SourceRequest, pocket
from prefreg_axes.labels import prefer_rated


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows from the bundled model's world."""
    return pocket.rows("politeness", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that is rated as more polite, a tie if none is, or what is chosen."""
    if "chosen" in row:
        return PreferencePair.from_row(row)
    return prefer_rated(row, "politeness")


_TONES = {"polite": 1.0, "plain": 0.0, "curt": -1.0}


def metric(prompt: str, answer: str) -> float | None:
    """Score the tone of a reply in the bundled model's world: 1 polite, 0 plain, -1 curt."""
    if pocket.parse(prompt) is None:
        return None
    return _TONES[pocket.score(prompt, answer).tone]


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="politeness",
            summary="Courteous wording instead of curt.",
            aliases=("polite",),
            sources={
                "pocket": load_pocket,
                "smollm2": ContrastSource(
                    positive="You are very polite and warm. Thank the user for the question, say "
                    "that you are glad to help, and wish them well at the end.",
                    negative="You are curt. Answer coldly and bluntly, without any polite word.",
                    count=160,
                ),
            },
            label=label,
            metric=metric,
        )
    ]
