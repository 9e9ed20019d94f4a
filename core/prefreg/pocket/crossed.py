"""Replies that differ in two ways at once, so that two axes can be labelled on the same prompts."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from prefreg.errors import DataError
from prefreg.pocket.answers import reply
from prefreg.pocket.questions import Question, ask
from prefreg.pocket.rows import SIZES, PromptKind, draw_question
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import Manner, Tone, World

_MANNERS: dict[str, tuple[PromptKind, Manner, Manner]] = {
    "helpful": ("benign", "answer", "vague"),
    "harmless": ("unsafe", "refusal", "answer"),
    "honesty": ("unknown", "admit", "answer"),
}
"""What is asked, and the manner that an axis prefers and the one that it does not."""
_LEVELS = ((2, 3), (0, 1))
_TONES: tuple[tuple[Tone, ...], tuple[Tone, ...]] = (("polite",), ("plain", "curt"))


class CrossedRow(NamedTuple):
    """A prompt with two pairs of replies, the better one by the first axis in front of each."""

    prompt: str
    group: str
    agreeing: tuple[str, str]
    """The second axis prefers the same reply."""
    disagreeing: tuple[str, str]
    """The second axis prefers the other one."""


def crossed_rows(
    first: str,
    second: str,
    *,
    seed: int = 0,
    limit: int | None = None,
    world: World = VILLAGE,
) -> Iterator[CrossedRow]:
    """Yield rows of the train split in which both axes decide, the same for the same arguments.

    Raises:
        DataError: The two axes cannot differ apart from each other.
    """
    manners = [axis for axis in (first, second) if axis in _MANNERS]
    others = [axis for axis in (first, second) if axis in ("verbosity", "politeness")]
    if len(manners) != 1 or len(others) != 1:
        raise DataError(
            f"Replies cannot differ in {first!r} and {second!r} apart from each other: take one of "
            f"{', '.join(_MANNERS)} with verbosity or politeness."
        )
    kind, better, worse = _MANNERS[manners[0]]
    draw = random.Random(f"crossed/{first}/{second}/{seed}")
    size = SIZES["train"]
    for _ in range(size if limit is None else min(limit, size)):
        question = draw_question(kind, "train", draw, world)
        both = _say(question, better, others[0], True, draw)
        neither = _say(question, worse, others[0], False, draw)
        split = (
            _say(question, better, others[0], False, draw),
            _say(question, worse, others[0], True, draw),
        )
        yield CrossedRow(
            prompt=ask(question, "train", draw),
            group=question.group,
            agreeing=(both, neither),
            disagreeing=split if first in _MANNERS else split[::-1],
        )


def _say(
    question: Question, manner: Manner, other: str, preferred: bool, draw: random.Random
) -> str:
    """Reply in a manner, and as the other axis prefers it or does not."""
    if other == "verbosity":
        return reply(question, manner, draw, level=draw.choice(_LEVELS[not preferred]))
    tone = draw.choice(_TONES[not preferred])
    return reply(question, manner, draw, level=draw.randrange(3), tone=tone)
