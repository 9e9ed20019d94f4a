"""Preference rows and prompts, in the columns that published data sets use."""

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from prefreg.errors import DataError
from prefreg.pocket.answers import Manner, Tone, reply
from prefreg.pocket.questions import Kind, Question, ask, questions_of
from prefreg.pocket.world import Split

PromptKind = Literal["benign", "unsafe", "unknown"]
SIZES: Mapping[Split, int] = {"train": 1440, "dev": 400, "test": 400}
TONES: tuple[tuple[Tone, float], ...] = (("plain", 0.7), ("polite", 0.2), ("curt", 0.1))

# (kind of question, manners of the two responses, share)
_HELPFUL: tuple[tuple[PromptKind, tuple[Manner, Manner], float], ...] = (
    ("benign", ("answer", "vague"), 0.74),
    ("benign", ("answer", "refusal"), 0.08),
    ("unsafe", ("answer", "refusal"), 0.1),
    ("unsafe", ("refusal", "vague"), 0.08),
)
_HARMLESS: tuple[tuple[PromptKind, tuple[Manner, Manner], float], ...] = (
    ("unsafe", ("answer", "refusal"), 0.8),
    ("unsafe", ("vague", "refusal"), 0.1),
    ("benign", ("answer", "vague"), 0.1),
)
_VERBOSITY: tuple[tuple[PromptKind, tuple[Manner, Manner], float], ...] = (
    ("benign", ("answer", "answer"), 0.7),
    ("benign", ("vague", "vague"), 0.12),
    ("unsafe", ("answer", "answer"), 0.08),
    ("unsafe", ("refusal", "refusal"), 0.1),
)


def draw_question(kind: PromptKind, split: Split, draw: random.Random) -> Question:
    """Draw a question of a kind of prompt, each topic with its share."""
    if kind != "benign":
        return draw.choice(questions_of(kind, split))
    inner: Kind = draw.choices(("fact", "howto", "portrait"), (0.75, 0.2, 0.05))[0]
    return draw.choice(questions_of(inner, split))


def draw_tone(draw: random.Random) -> Tone:
    """Draw a tone with its share in the village."""
    names, shares = zip(*TONES, strict=True)
    tone: Tone = draw.choices(names, shares)[0]
    return tone


def rows(
    axis: str, *, split: str = "train", seed: int = 0, limit: int | None = None
) -> Iterator[dict[str, object]]:
    """Yield the preference rows of an axis, the same for the same arguments.

    Rows of helpful and harmless have the columns of PKU-SafeRLHF, a tie having None for an id;
    rows of verbosity have two of HelpSteer2's ratings.
    """
    owner = _split_named(split)
    makers = {"helpful": _safety_row, "harmless": _safety_row, "verbosity": _length_row}
    shares = {"helpful": _HELPFUL, "harmless": _HARMLESS, "verbosity": _VERBOSITY}
    if axis not in makers:
        raise DataError(f"No pocket rows for axis {axis!r}. There are: {', '.join(makers)}.")
    draw = random.Random(f"rows/{axis}/{split}/{seed}")
    plans = shares[axis]
    weights = [share for _, _, share in plans]
    for _ in range(SIZES[owner] if limit is None else min(limit, SIZES[owner])):
        kind, manners, _ = draw.choices(plans, weights)[0]
        question = draw_question(kind, owner, draw)
        prompt = ask(question, owner, draw)
        yield makers[axis](question, prompt, manners, draw)


def _split_named(name: str) -> Split:
    for split in SIZES:
        if split == name:
            return split
    raise DataError(f"No pocket split {name!r}. There are: {', '.join(SIZES)}.")


def _safety_row(
    question: Question, prompt: str, manners: tuple[Manner, Manner], draw: random.Random
) -> dict[str, object]:
    # Both responses share length and tone, so that an axis learns only what it is about; and few
    # are long, because DPO lengthens whatever it prefers.
    level, tone = draw.choices(range(5), (0.25, 0.3, 0.25, 0.15, 0.05))[0], draw_tone(draw)
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
    return {
        "prompt": prompt,
        "response_0": responses[0],
        "response_1": responses[1],
        "verbosity_0": levels[0],
        "verbosity_1": levels[1],
        "group": question.group,
    }


def prompts(kind: str, *, split: str = "test", limit: int, seed: int = 0) -> list[str]:
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
        found[ask(draw_question(wanted, owner, draw), owner, draw)] = None
    return list(itertools.islice(itertools.cycle(found), limit))
