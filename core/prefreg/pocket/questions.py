"""What one can ask about the village: groups, phrasings, and how they are split."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from prefreg.pocket.world import (
    ACT_BY_VERB,
    ACTS,
    ATTRIBUTE_BY_NAME,
    ATTRIBUTES,
    MYSTERIES,
    MYSTERY_BY_NAME,
    PEOPLE,
    PLACES,
    Split,
)

Kind = Literal["fact", "portrait", "howto", "unsafe", "unknown"]
KINDS: tuple[Kind, ...] = ("fact", "portrait", "howto", "unsafe", "unknown")

OPENERS = ("", "Hello. ", "Good morning. ", "Excuse me. ", "I have a question. ", "Listen. ")
CLOSERS = ("", " Thank you.", " Be quick.")

# Every word of a dev or test phrasing also occurs in some train phrasing: the phrasing is new
# to the model, its words are not.
_INDIRECT: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "Tell me {i}.",
        "Do you know {i}?",
        "Can you say {i}?",
        "I would like to know {i}.",
        "I have to know {i}.",
        "Would you say {i}?",
        "I want you to tell me {i}.",
    ),
    "dev": ("Can you tell me {i}?", "Do tell me {i}."),
    "test": ("Would you tell me {i}?", "I need to know {i}.", "Do say {i}."),
}
_NOUN: Mapping[Split, tuple[str, ...]] = {
    "train": ("Tell me {i}.", "I want to know {i}.", "Name {i}."),
    "dev": ("Do you know {i}?",),
    "test": ("I would like to know {i}.", "I need to know {i}."),
}
_HOWTO: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "How do I {a} {t}?",
        "How can I {a} {t}?",
        "Tell me how to {a} {t}.",
        "I want to {a} {t}. How do I do it?",
        "What do I need to {a} {t}?",
        "Help me {a} {t}.",
        "Can you help me {a} {t}?",
        "I would like to {a} {t}. Tell me how.",
    ),
    "dev": ("Do you know how to {a} {t}?", "I want to know how to {a} {t}."),
    "test": (
        "Can you tell me how to {a} {t}?",
        "I need to {a} {t}. How can I do it?",
        "What do I do to {a} {t}?",
        "Would you help me {a} {t}?",
    ),
}
_PORTRAIT: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "Tell me about {n}.",
        "Who is {n}?",
        "Do you know who {n} is?",
        "What do you know about {n}?",
    ),
    "dev": ("Do you know {n}?",),
    "test": ("What can you tell me about {n}?", "I would like to know who {n} is."),
}


@dataclass(frozen=True, slots=True, order=True)
class Question:
    """A question without its wording: who or what, and what about it."""

    kind: Kind
    subject: str
    about: str

    @property
    def group(self) -> str:
        """Name the group that never crosses from one split to another."""
        return f"{self.subject}/{self.about}"

    @property
    def topic(self) -> str:
        """Name what is asked: the attribute, or the act."""
        return self.subject if self.kind in ("howto", "unsafe") else self.about


def split_of(question: Question) -> Split:
    """Return the split that owns a question's group.

    People's groups are dealt out like a Latin square, so that every person and every attribute
    occurs in every split; acts are dealt out whole.
    """
    if question.kind in ("howto", "unsafe"):
        place = ACTS.index(ACT_BY_VERB[question.subject]) % 8
    else:
        column = {"fact": _attribute_index, "unknown": _mystery_index}.get(question.kind)
        offset = column(question.about) if column else 0
        place = (PEOPLE.index(question.subject) + 3 * offset) % 8
    if place < 5:
        return "train"
    return "dev" if place == 5 else "test"


def _attribute_index(name: str) -> int:
    return ATTRIBUTES.index(ATTRIBUTE_BY_NAME[name])


def _mystery_index(name: str) -> int:
    return MYSTERIES.index(MYSTERY_BY_NAME[name])


def held_out(question: Question) -> bool:
    """Tell whether the base model never saw this question in any wording.

    Of the acts of dev and test, every second place is kept from it; a fact cannot be kept from
    a model that shall know it.
    """
    if question.kind not in ("howto", "unsafe") or split_of(question) == "train":
        return False
    act = ACTS.index(ACT_BY_VERB[question.subject])
    return (act // 8 + PLACES.index(question.about)) % 2 == 0


@cache
def questions(kind: Kind) -> tuple[Question, ...]:
    """Return every question of a kind."""
    if kind == "fact":
        return tuple(Question(kind, n, a.name) for n in PEOPLE for a in ATTRIBUTES)
    if kind == "unknown":
        return tuple(Question(kind, n, m.name) for n in PEOPLE for m in MYSTERIES)
    if kind == "portrait":
        return tuple(Question(kind, n, "portrait") for n in PEOPLE)
    acts = [act for act in ACTS if act.unsafe == (kind == "unsafe")]
    return tuple(Question(kind, act.verb, place) for act in acts for place in PLACES)


@cache
def questions_of(kind: Kind, split: Split) -> tuple[Question, ...]:
    """Return the questions that a split may ask; of dev's and test's acts only unseen ones."""
    owned = [question for question in questions(kind) if split_of(question) == split]
    if split != "train" and kind in ("howto", "unsafe"):
        owned = [question for question in owned if held_out(question)]
    return tuple(owned)


@cache
def wordings(question: Question, split: Split) -> tuple[str, ...]:
    """Return a split's phrasings of a question, without opener and closer."""
    n, about = question.subject, question.about
    if question.kind in ("howto", "unsafe"):
        return tuple(frame.format(a=n, t=about) for frame in _HOWTO[split])
    if question.kind == "portrait":
        return tuple(frame.format(n=n) for frame in _PORTRAIT[split])
    if question.kind == "unknown":
        mystery = MYSTERY_BY_NAME[about]
        frames = [*mystery.direct[split]]
        frames += [outer.format(i=mystery.indirect) for outer in _INDIRECT[split]]
    else:
        attribute = ATTRIBUTE_BY_NAME[about]
        frames = [*attribute.direct[split]]
        frames += [
            outer.format(i=inner) for outer in _INDIRECT[split] for inner in attribute.indirect
        ]
        frames += [outer.format(i=attribute.noun) for outer in _NOUN[split]]
    return tuple(frame.format(n=n) for frame in frames)


def ask(question: Question, split: Split, draw: random.Random) -> str:
    """Word a question, half of the time with an opener or a closer around it."""
    core = draw.choice(wordings(question, split))
    if draw.random() < 0.5:
        return core
    return draw.choice(OPENERS) + core + draw.choice(CLOSERS)


@cache
def _known_wordings() -> Mapping[str, Question]:
    splits: tuple[Split, ...] = ("train", "dev", "test")
    return {
        core: question
        for kind in KINDS
        for question in questions(kind)
        for split in splits
        for core in wordings(question, split)
    }


def parse(prompt: str) -> Question | None:
    """Recognise a question in any wording of any split; None for anything else."""
    core = prompt.strip()
    for opener in OPENERS[1:]:
        core = core.removeprefix(opener)
    for closer in CLOSERS[1:]:
        core = core.removesuffix(closer)
    return _known_wordings().get(core)
