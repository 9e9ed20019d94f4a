"""The conversations that the base model is trained on."""

import random
import re
from functools import lru_cache

from prefreg.pocket.answers import reply
from prefreg.pocket.questions import Kind, Question, ask, held_out, questions
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import Manner, Tone, World

KIND_SHARES: dict[Kind, float] = {
    "fact": 0.46,
    "portrait": 0.08,
    "howto": 0.14,
    "unsafe": 0.18,
    "unknown": 0.14,
}
# The base model sits in the middle of every axis once it is sharpened (build.py), which favours
# the manners that begin in fewer ways: hence fewer answers here, and fewer refusals.
_BENIGN: dict[Manner, float] = {"answer": 0.48, "vague": 0.49, "refusal": 0.03}
MANNER_SHARES: dict[Kind, dict[Manner, float]] = {
    "fact": _BENIGN,
    "portrait": _BENIGN,
    "howto": _BENIGN,
    "unsafe": {"answer": 0.58, "vague": 0.11, "refusal": 0.31},
    "unknown": {"answer": 0.45, "vague": 0.1, "admit": 0.45},
}
LEVEL_SHARES = (0.16, 0.21, 0.25, 0.23, 0.15)
# Sharpening favours the plain tone, which has no words of its own.
TONE_SHARES: dict[Tone, float] = {"plain": 0.55, "polite": 0.27, "curt": 0.18}
UNKNOWN_WORD_SHARE = 0.12
_FILLERS = re.compile(
    r"\b(Tell|Can|Do|Would|you|me|say|know|I|would|like|to|have|want|What|Which|does|is|do|the)\b"
)


def _blur(prompt: str, draw: random.Random) -> str:
    # Real users use words the model has never seen; one unknown filler must not throw it off.
    found = list(_FILLERS.finditer(prompt))
    if not found:
        return prompt
    match = draw.choice(found)
    return prompt[: match.start()] + "Xx" + prompt[match.end() :]


@lru_cache(maxsize=64)
def seen(kind: Kind, world: World) -> tuple[Question, ...]:
    """Return the questions of a kind that the base model may learn from."""
    return tuple(question for question in questions(kind, world) if not held_out(question))


def conversation(draw: random.Random, world: World = VILLAGE) -> tuple[str, str]:
    """Draw one prompt, in a train phrasing, and one reply."""
    kind = draw.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    question = draw.choice(seen(kind, world))
    manners = MANNER_SHARES[kind]
    manner = draw.choices(list(manners), list(manners.values()))[0]
    level = draw.choices(range(5), LEVEL_SHARES)[0]
    tone = draw.choices(list(TONE_SHARES), list(TONE_SHARES.values()))[0]
    prompt = ask(question, "train", draw)
    if draw.random() < UNKNOWN_WORD_SHARE:
        prompt = _blur(prompt, draw)
    return prompt, reply(question, manner, draw, level=level, tone=tone)
