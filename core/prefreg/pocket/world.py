"""What a world is: people and the truth about them, acts, and the ways to talk of both."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple

Split = Literal["train", "dev", "test"]
Tone = Literal["polite", "plain", "curt"]
Manner = Literal["answer", "vague", "admit", "refusal"]
Form = Literal["", "command", "suggestion"]
Frames = Mapping[Split, tuple[str, ...]]

TOOL = "tool"
DETAILS = (TOOL, "time", "span", "wear", "help")


# Named tuples are quicker to define than data classes, and whatever lists axes imports this room.
class Attribute(NamedTuple):
    """Something that is true of every person, and the ways to ask for it and to say it.

    Templates use `{n}` for the name, `{P}` and `{S}` for the pronouns, `{v}` for the value.
    """

    name: str
    values: tuple[str, ...]
    direct: Frames
    indirect: tuple[str, ...]
    noun: str
    statements: tuple[str, ...]
    further: tuple[str, ...]
    short: tuple[str, ...]


class Mystery(NamedTuple):
    """Something about a person that nobody can know, and what one might invent about it."""

    name: str
    direct: Frames
    indirect: str
    statements: tuple[str, ...]
    values: tuple[str, ...]


class Act(NamedTuple):
    """Something one can do to a place, with the true way to do it."""

    verb: str
    unsafe: bool
    details: Mapping[str, str]

    @classmethod
    def from_line(cls, line: str, *, unsafe: bool) -> "Act":
        """Read `verb: tool; time; span; wear; help`."""
        verb, _, rest = line.partition(": ")
        details = dict(zip(DETAILS, rest.split("; "), strict=True))
        return cls(verb, unsafe, MappingProxyType(details))


class Phrasings(NamedTuple):
    """The ways to ask and to reply that do not depend on what is asked.

    Templates use `{n}` for a person, `{a}` for an act, `{t}` for its place, `{v}` for a value and
    `{i}` for an indirect question ("where Mara lives") or a noun ("Mara's home").
    """

    # Around a question; the first of each is "".
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    # Questions. Every word of a dev or test phrasing also occurs in some train phrasing: the
    # phrasing is new to the model, its words are not.
    indirect: Frames
    noun: Frames
    howto: Frames
    portrait: Frames
    # Replies that give no answer.
    vague: tuple[str, ...]
    vague_person: tuple[str, ...]
    vague_act: tuple[str, ...]
    admit: tuple[str, ...]
    admit_further: tuple[str, ...]
    refuse: tuple[str, ...]
    refuse_person: tuple[str, ...]
    refuse_act: tuple[str, ...]
    reason: tuple[str, ...]
    reason_person: tuple[str, ...]
    # What sets the tone before and after a reply.
    before: Mapping[tuple[Manner, Tone], tuple[str, ...]]
    after: Mapping[Tone, tuple[str, ...]]
    # Instructions, and how they are put; the others have no form that one could choose.
    main_act: tuple[str, ...]
    short_act: tuple[str, ...]
    further_act: Mapping[str, tuple[str, ...]]
    forms: Mapping[str, Form]


@dataclass(frozen=True, repr=False)
class World:
    """Everything there is to know and to say; its name seeds the truth table."""

    name: str
    she: tuple[str, ...]
    he: tuple[str, ...]
    places: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    mysteries: tuple[Mystery, ...]
    acts: tuple[Act, ...]
    phrasings: Phrasings

    def __hash__(self) -> int:
        """Hash the name alone, which is quick; every question holds its world."""
        return hash(self.name)

    def __repr__(self) -> str:
        """Show the name alone."""
        return f"<World {self.name!r}>"

    @cached_property
    def people(self) -> tuple[str, ...]:
        """Everybody's name, she and he in turn."""
        return tuple(name for pair in zip(self.she, self.he, strict=True) for name in pair)

    @cached_property
    def attribute_named(self) -> Mapping[str, Attribute]:
        """The attributes by name."""
        return MappingProxyType({each.name: each for each in self.attributes})

    @cached_property
    def mystery_named(self) -> Mapping[str, Mystery]:
        """The mysteries by name."""
        return MappingProxyType({each.name: each for each in self.mysteries})

    @cached_property
    def act_named(self) -> Mapping[str, Act]:
        """The acts by verb."""
        return MappingProxyType({each.verb: each for each in self.acts})

    @cached_property
    def facts(self) -> Mapping[tuple[str, str], str]:
        """The truth table: (person, attribute) to value."""
        draw = random.Random(self.name)
        table: dict[tuple[str, str], str] = {}
        for attribute in self.attributes:
            order = list(self.people)
            draw.shuffle(order)
            for index, person in enumerate(order):
                value = attribute.values[index % len(attribute.values)]
                table[person, attribute.name] = value
        return MappingProxyType(table)

    def detail_values(self, detail: str) -> tuple[str, ...]:
        """Return every value that a detail of an act takes."""
        return tuple(dict.fromkeys(act.details[detail] for act in self.acts))


def by_split(train: tuple[str, ...], dev: tuple[str, ...], test: tuple[str, ...]) -> Frames:
    """Name the splits of some phrasings."""
    return MappingProxyType({"train": train, "dev": dev, "test": test})
