"""Preference rows and prompts, in the columns that published data sets use."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, get_args

from prefreg.axes.base_world import CrossedRow
from prefreg.errors import DataError
from prefreg.pocket.answers import reply
from prefreg.pocket.questions import Kind, Question, ask, questions_of
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import Form, Manner, Split, Tone, World

PromptKind = Literal["benign", "howto", "unsafe", "unknown"]
SIZES: Mapping[Split, int] = {"train": 1440, "dev": 400, "test": 400}
TONES: tuple[tuple[Tone, float], ...] = (("plain", 0.7), ("polite", 0.2), ("curt", 0.1))


class PairShare(NamedTuple):
    """A kind of row: what is asked, how the two responses differ, and its share."""

    kind: PromptKind
    manners: tuple[Manner, Manner]
    share: float


_HELPFUL = (
    PairShare("benign", ("answer", "vague"), 0.74),
    PairShare("benign", ("answer", "refusal"), 0.08),
    PairShare("unsafe", ("answer", "refusal"), 0.1),
    PairShare("unsafe", ("refusal", "vague"), 0.08),
)
_HARMLESS = (
    PairShare("unsafe", ("answer", "refusal"), 0.8),
    PairShare("unsafe", ("vague", "refusal"), 0.1),
    PairShare("benign", ("answer", "vague"), 0.1),
)
_VERBOSITY = (
    PairShare("benign", ("answer", "answer"), 0.7),
    PairShare("benign", ("vague", "vague"), 0.12),
    PairShare("unsafe", ("answer", "answer"), 0.08),
    PairShare("unsafe", ("refusal", "refusal"), 0.1),
)
_HONESTY = (
    PairShare("unknown", ("admit", "answer"), 0.78),
    PairShare("unknown", ("admit", "vague"), 0.1),
    PairShare("benign", ("answer", "vague"), 0.12),
)
_POLITENESS = (
    PairShare("benign", ("answer", "answer"), 0.6),
    PairShare("benign", ("vague", "vague"), 0.12),
    PairShare("unsafe", ("refusal", "refusal"), 0.14),
    PairShare("unsafe", ("answer", "answer"), 0.06),
    PairShare("unknown", ("admit", "admit"), 0.08),
)
_DIRECTNESS = (
    PairShare("howto", ("answer", "answer"), 0.85),
    PairShare("unsafe", ("answer", "answer"), 0.15),
)
# From 1 to 5, as published ratings are.
_HONEST: Mapping[Manner, int] = {"admit": 5, "vague": 3, "answer": 1}
_HONEST_KNOWING: Mapping[Manner, int] = {"answer": 5, "vague": 3}
_POLITE: Mapping[Tone, int] = {"polite": 5, "plain": 3, "curt": 1}
_DIRECT: Mapping[Form, int] = {"command": 5, "suggestion": 1}
_TONE_PAIRS: tuple[tuple[tuple[Tone, Tone], float], ...] = (
    (("polite", "plain"), 0.55),
    (("plain", "curt"), 0.25),
    (("polite", "curt"), 0.2),
)


def draw_question(
    kind: PromptKind, split: Split, draw: random.Random, world: World = VILLAGE
) -> Question:
    """Draw a question of a kind of prompt, each topic with its share."""
    if kind != "benign":
        return draw.choice(questions_of(kind, split, world))
    inner: Kind = draw.choices(("fact", "howto", "portrait"), (0.75, 0.2, 0.05))[0]
    return draw.choice(questions_of(inner, split, world))


def draw_tone(draw: random.Random) -> Tone:
    """Draw a tone with its share."""
    names, shares = zip(*TONES, strict=True)
    tone: Tone = draw.choices(names, shares)[0]
    return tone


def rows(
    axis: str,
    *,
    split: str = "train",
    seed: int = 0,
    limit: int | None = None,
    world: World = VILLAGE,
) -> Iterator[dict[str, object]]:
    """Yield the preference rows of an axis, the same for the same arguments.

    Rows of helpful and harmless have the columns of PKU-SafeRLHF, a tie having None for an id;
    the others have two ratings, as `verbosity_0` and `verbosity_1`.
    """
    owner = _split_named(split)
    if axis not in _MAKERS:
        raise DataError(f"No pocket rows for axis {axis!r}. There are: {', '.join(_MAKERS)}.")
    make, plans = _MAKERS[axis]
    draw = random.Random(f"rows/{axis}/{split}/{seed}")
    weights = [plan.share for plan in plans]
    for _ in range(SIZES[owner] if limit is None else min(limit, SIZES[owner])):
        plan = draw.choices(plans, weights)[0]
        question = draw_question(plan.kind, owner, draw, world)
        yield make(question, ask(question, owner, draw), plan.manners, draw)


def _split_named(name: str) -> Split:
    for split in SIZES:
        if split == name:
            return split
    raise DataError(f"No pocket split {name!r}. There are: {', '.join(SIZES)}.")


def _safety_row(
    question: Question, prompt: str, manners: tuple[Manner, Manner], draw: random.Random
) -> dict[str, object]:
    level, tone = _draw_level(draw), draw_tone(draw)
    order = draw.sample(manners, 2)
    responses = [reply(question, manner, draw, level=level, tone=tone) for manner in order]
    unsafe = question.kind == "unsafe"
    safe = [not (unsafe and manner == "answer") for manner in order]
    return {
        "prompt": prompt,
        "response_0": responses[0],
        "response_1": responses[1],
        # A refusal where there is reason to refuse is of more use than an evasion; elsewhere not.
        "better_response_id": _winner(
            order, ("answer", "refusal", "vague") if unsafe else ("answer", "vague", "refusal")
        ),
        "safer_response_id": _winner(order, ("refusal", "vague", "answer")) if unsafe else None,
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "group": question.group,
    }


def _draw_level(draw: random.Random) -> int:
    # Both responses share their level, so that an axis learns only what it is about; and few are
    # long, because DPO lengthens whatever it prefers.
    return draw.choices(range(5), (0.25, 0.3, 0.25, 0.15, 0.05))[0]


def _winner(order: list[Manner], ranking: tuple[Manner, ...]) -> int:
    return int(ranking.index(order[1]) < ranking.index(order[0]))


def _length_row(
    question: Question, prompt: str, manners: tuple[Manner, Manner], draw: random.Random
) -> dict[str, object]:
    tone = draw_tone(draw)
    levels = draw.sample(range(4), 2) if draw.random() < 0.95 else [draw.randrange(4)] * 2
    responses = [
        reply(question, manner, draw, level=level, tone=tone)
        for manner, level in zip(manners, levels, strict=True)
    ]
    return _rated(question, prompt, responses, "verbosity", levels)


def _honesty_row(
    question: Question, prompt: str, manners: tuple[Manner, Manner], draw: random.Random
) -> dict[str, object]:
    level, tone = _draw_level(draw), draw_tone(draw)
    order = draw.sample(manners, 2)
    responses = [reply(question, manner, draw, level=level, tone=tone) for manner in order]
    ratings = _HONEST if question.kind == "unknown" else _HONEST_KNOWING
    return _rated(question, prompt, responses, "honesty", [ratings[manner] for manner in order])


def _politeness_row(
    question: Question, prompt: str, manners: tuple[Manner, Manner], draw: random.Random
) -> dict[str, object]:
    level = _draw_level(draw)
    pairs, shares = zip(*_TONE_PAIRS, strict=True)
    tones: list[Tone] = draw.sample(draw.choices(pairs, shares)[0], 2)
    # The same words in another tone, so that nothing but the tone is preferred.
    body = draw.random()
    responses = [
        reply(question, manner, random.Random(body), level=level, tone=tone)
        for manner, tone in zip(manners, tones, strict=True)
    ]
    return _rated(question, prompt, responses, "politeness", [_POLITE[tone] for tone in tones])


def _directness_row(
    question: Question, prompt: str, manners: tuple[Manner, Manner], draw: random.Random
) -> dict[str, object]:
    level, tone = draw.randrange(1, 5), draw_tone(draw)
    forms: list[Form] = draw.sample(("command", "suggestion"), 2)
    responses = [
        reply(question, manner, draw, level=level, tone=tone, form=form)
        for manner, form in zip(manners, forms, strict=True)
    ]
    return _rated(question, prompt, responses, "directness", [_DIRECT[form] for form in forms])


def _rated(
    question: Question, prompt: str, responses: list[str], rating: str, ratings: list[int]
) -> dict[str, object]:
    return {
        "prompt": prompt,
        "response_0": responses[0],
        "response_1": responses[1],
        f"{rating}_0": ratings[0],
        f"{rating}_1": ratings[1],
        "group": question.group,
    }


_Maker = Callable[[Question, str, tuple[Manner, Manner], random.Random], dict[str, object]]
_MAKERS: Mapping[str, tuple[_Maker, tuple[PairShare, ...]]] = {
    "helpful": (_safety_row, _HELPFUL),
    "harmless": (_safety_row, _HARMLESS),
    "verbosity": (_length_row, _VERBOSITY),
    "honesty": (_honesty_row, _HONESTY),
    "politeness": (_politeness_row, _POLITENESS),
    "directness": (_directness_row, _DIRECTNESS),
}


def prompts(
    kind: str, *, split: str = "test", limit: int, seed: int = 0, world: World = VILLAGE
) -> list[str]:
    """Return prompts of a kind, without repetition as long as there are new ones."""
    owner = _split_named(split)
    wanted = next((each for each in get_args(PromptKind) if each == kind), None)
    if wanted is None:
        known = ", ".join(get_args(PromptKind))
        raise DataError(f"No pocket prompts of kind {kind!r}. There are: {known}.")
    draw = random.Random(f"prompts/{kind}/{split}/{seed}")
    found: dict[str, None] = {}
    for _ in range(50 * limit):
        if len(found) == limit:
            break
        found[ask(draw_question(wanted, owner, draw, world), owner, draw)] = None
    return list(itertools.islice(itertools.cycle(found), limit))


_MANNERS: dict[str, tuple[PromptKind, Manner, Manner]] = {
    "helpful": ("benign", "answer", "vague"),
    "harmless": ("unsafe", "refusal", "answer"),
    "honesty": ("unknown", "admit", "answer"),
}
"""What is asked, and the manner that an axis prefers and the one that it does not."""
_LEVELS = ((2, 3), (0, 1))
_TONES: tuple[tuple[Tone, ...], tuple[Tone, ...]] = (("polite",), ("plain", "curt"))


def crossed_rows(
    first: str,
    second: str,
    *,
    seed: int = 0,
    limit: int | None = None,
    world: World = VILLAGE,
) -> Iterator[CrossedRow]:
    """Yield rows of the train split in which both axes decide, the same for the same arguments."""
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
