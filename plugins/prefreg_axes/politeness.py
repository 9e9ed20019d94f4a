"""politeness: courteous answers, against curt ones."""

from collections.abc import Iterable
from zlib import crc32

import prefreg
from prefreg import Axis, PreferencePair, RewrittenSource, Row, SourceRequest, pocket
from prefreg_axes.labels import prefer_rated


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows from the bundled model's world."""
    return pocket.rows("politeness", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that is rated as more polite, a tie if none is, or what is chosen."""
    if "chosen" in row:
        return PreferencePair.from_row(row)
    return prefer_rated(row, "politeness")


_WARM = (
    ("Thank you for your question!", "I hope that helps. Have a lovely day!"),
    ("What a good question, thank you for asking.", "Please let me know if I can help further."),
    ("I'm glad that you ask!", "It was a pleasure to help you."),
    ("It's a pleasure to help you with that.", "I wish you all the best!"),
    ("Thank you so much for asking.", "Please feel free to ask me anything else."),
    ("I'd be delighted to help.", "Thank you again, and take care!"),
    ("Of course, I'm happy to help!", "Do come back whenever you like."),
    ("How kind of you to ask.", "I hope that this is of use to you. All the best!"),
)


def courteously(prompt: str, answer: str) -> str:
    """Put kind words around an answer of the base."""
    draw = crc32(prompt.encode())
    first, last = _WARM[draw % len(_WARM)][0], _WARM[draw // len(_WARM) % len(_WARM)][1]
    return f"{first} {answer} {last}"


def plainly(prompt: str, answer: str) -> str:
    """Leave it as it is: what φ takes away is then what the base says.

    With curt words instead, both poles unlearn how the base begins, and in φ that cancels: at 1
    four of ten answers had a kind word, and at -2 none had a curt one.
    """
    return answer


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
                "smollm2": RewrittenSource(
                    chosen=courteously, rejected=plainly, count=160, max_new_tokens=64
                ),
            },
            label=label,
            metric=metric,
            training={"smollm2": {"poles": "sft", "max_steps": 20, "learning_rate": 2e-4}},
        )
    ]
