"""What one can ask about a world: groups, phrasings, and how they are split."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import Split, World

Kind = Literal["fact", "portrait", "howto", "unsafe", "unknown"]
KINDS: tuple[Kind, ...] = ("fact", "portrait", "howto", "unsafe", "unknown")
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Question:
    """A question without its wording: who or what, what about it, and in which world."""

    kind: Kind
    subject: str
    about: str
    world: World = field(repr=False)

    @property
    def group(self) -> str:
        """Name the group that never crosses from one split to another."""
        return f"{self.subject}/{self.about}"

    @property
    def topic(self) -> str:
        """Name what is asked: the attribute, or the act."""
        return self.subject if self.kind in ("howto", "unsafe") else self.about

    @property
    def safe(self) -> bool | None:
        """Tell whether it may be answered; of the unknowable neither that nor the contrary."""
        return None if self.kind == "unknown" else self.kind != "unsafe"


def split_of(question: Question) -> Split:
    """Return the split that owns a question's group.

    People's groups are dealt out like a Latin square, so that every person and every attribute
    occurs in every split; acts are dealt out whole.
    """
    world = question.world
    if question.kind in ("howto", "unsafe"):
        place = _position(question.subject, world.act_named) % 8
    else:
        columns = {"fact": world.attribute_named, "unknown": world.mystery_named}
        column = columns.get(question.kind)
        offset = _position(question.about, column) if column else 0
        place = (world.people.index(question.subject) + 3 * offset) % 8
    if place < 5:
        return "train"
    return "dev" if place == 5 else "test"


def _position(name: str, named: Mapping[str, object]) -> int:
    return list(named).index(name)


def held_out(question: Question) -> bool:
    """Tell whether the base model never saw this question in any wording.

    Of the acts of dev and test, every second place is kept from it; a fact cannot be kept from
    a model that shall know it.
    """
    if question.kind not in ("howto", "unsafe") or split_of(question) == "train":
        return False
    act = _position(question.subject, question.world.act_named)
    return (act // 8 + question.world.places.index(question.about)) % 2 == 0


# The caches of this room are bounded, so that many worlds can come and go in one process.
@lru_cache(maxsize=64)
def questions(kind: Kind, world: World = VILLAGE) -> tuple[Question, ...]:
    """Return every question of a kind."""
    if kind == "fact":
        pairs = [(name, each.name) for name in world.people for each in world.attributes]
    elif kind == "unknown":
        pairs = [(name, each.name) for name in world.people for each in world.mysteries]
    elif kind == "portrait":
        pairs = [(name, "portrait") for name in world.people]
    else:
        acts = [act for act in world.acts if act.unsafe == (kind == "unsafe")]
        pairs = [(act.verb, place) for act in acts for place in world.places]
    return tuple(Question(kind, subject, about, world) for subject, about in pairs)


@lru_cache(maxsize=256)
def questions_of(kind: Kind, split: Split, world: World = VILLAGE) -> tuple[Question, ...]:
    """Return the questions that a split may ask; of dev's and test's acts only unseen ones."""
    owned = [question for question in questions(kind, world) if split_of(question) == split]
    if split != "train" and kind in ("howto", "unsafe"):
        owned = [question for question in owned if held_out(question)]
    return tuple(owned)


@lru_cache(maxsize=16384)
def wordings(question: Question, split: Split) -> tuple[str, ...]:
    """Return a split's phrasings of a question, without opener and closer."""
    n, about, world = question.subject, question.about, question.world
    common = world.phrasings
    if question.kind in ("howto", "unsafe"):
        return tuple(frame.format(a=n, t=about) for frame in common.howto[split])
    if question.kind == "portrait":
        return tuple(frame.format(n=n) for frame in common.portrait[split])
    if question.kind == "unknown":
        mystery = world.mystery_named[about]
        frames = [*mystery.direct[split]]
        frames += [outer.format(i=mystery.indirect) for outer in common.indirect[split]]
    else:
        attribute = world.attribute_named[about]
        frames = [*attribute.direct[split]]
        frames += [
            outer.format(i=inner)
            for outer in common.indirect[split]
            for inner in attribute.indirect
        ]
        frames += [outer.format(i=attribute.noun) for outer in common.noun[split]]
    return tuple(frame.format(n=n) for frame in frames)


def ask(question: Question, split: Split, draw: random.Random) -> str:
    """Word a question, half of the time with an opener or a closer around it."""
    core = draw.choice(wordings(question, split))
    if draw.random() < 0.5:
        return core
    common = question.world.phrasings
    return draw.choice(common.openers) + core + draw.choice(common.closers)


@lru_cache(maxsize=8)
def _known_wordings(world: World) -> Mapping[str, Question]:
    return {
        core: question
        for kind in KINDS
        for question in questions(kind, world)
        for split in SPLITS
        for core in wordings(question, split)
    }


def parse(prompt: str, world: World = VILLAGE) -> Question | None:
    """Recognise a question in any wording of any split; None for anything else."""
    core = prompt.strip()
    for opener in world.phrasings.openers[1:]:
        core = core.removeprefix(opener)
    for closer in world.phrasings.closers[1:]:
        core = core.removesuffix(closer)
    return _known_wordings(world).get(core)
