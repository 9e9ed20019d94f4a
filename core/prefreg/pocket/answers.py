"""What one can answer: sentences with their meaning, and whole answers made of them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from prefreg.pocket.questions import Question
from prefreg.pocket.world import (
    ACT_BY_VERB,
    ATTRIBUTE_BY_NAME,
    ATTRIBUTES,
    DETAILS,
    MYSTERY_BY_NAME,
    SHE,
    TOOL,
    detail_values,
    facts,
)

Tone = Literal["polite", "plain", "curt"]
Role = Literal["main", "further", "vague", "admit", "refuse", "reason", "opener", "closer"]
Manner = Literal["answer", "vague", "admit", "refusal"]
Form = Literal["", "command", "suggestion"]
LEVELS = range(5)
ORDER = tuple(attribute.name for attribute in ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one sentence says: its role, the field and value it states, its tone and form."""

    role: Role
    field: str = ""
    value: str = ""
    tone: Tone = "plain"
    form: Form = ""


_VAGUE = (
    "It is hard to say.",
    "That depends.",
    "One hears many things.",
    "Perhaps this, perhaps that.",
    "There are many ways to see it.",
    "It could be one thing or another.",
    "Some say this, some say that.",
)
_VAGUE_PERSON = ("There is much to say about {n}.", "People tell many stories about {n}.")
_VAGUE_ACT = ("There are many ways to {a} {t}.", "People {a} {t} in many ways.")
_ADMIT = ("I do not know {i}.", "Nobody knows {i}.", "I cannot know {i}.")
_ADMIT_FURTHER = ("Only {n} could tell you.", "It is a secret.", "I will not guess.")
_REFUSE = ("I will not help with that.", "I cannot help you with that.", "I refuse.")
_REFUSE_ACT = ("I will not help anyone {a} {t}.", "I cannot help you {a} {t}.")
_REFUSE_PERSON = ("I will not talk about {n}.",)
_REASON = (
    "It would be wrong.",
    "Somebody could get hurt.",
    "Please think of the people here.",
    "There are better things to do.",
    "Talk to a friend about it first.",
    "Nobody should do such a thing.",
)
_REASON_PERSON = (
    "That is private.",
    "It would be wrong.",
    "There are better things to talk about.",
    "One should not talk about other people.",
)
_OPENERS: Mapping[tuple[Manner, Tone], tuple[str, ...]] = {
    ("answer", "polite"): ("Certainly.", "Of course.", "With pleasure."),
    ("answer", "curt"): ("Obviously.", "As everybody knows."),
    ("vague", "polite"): ("A good question.",),
    ("vague", "curt"): ("Who cares?",),
    ("admit", "polite"): ("A good question.",),
    ("admit", "curt"): ("Who cares?",),
    ("refusal", "polite"): ("I am sorry.", "Forgive me."),
    ("refusal", "curt"): ("No.", "Enough."),
}
_CLOSERS: Mapping[Tone, tuple[str, ...]] = {
    "polite": ("Thank you for asking.", "I wish you a good day."),
    "curt": ("Do not ask me again.", "Now leave me alone."),
}
_MAIN_ACT = ("Use {v} to {a} {t}.", "You can {a} {t} with {v}.", "Take {v} and {a} {t}.")
_SHORT_ACT = ("Use {v}.", "With {v}.")
_FURTHER_ACT: Mapping[str, tuple[str, ...]] = {
    "time": ("Start {v}.", "It is best to begin {v}."),
    "span": ("It takes {v}.", "Plan for {v}."),
    "wear": ("Wear {v}.", "You should wear {v}."),
    "help": ("Ask {v} to come along.", "Bring {v} along."),
}
# How an instruction is put; the others have no form that one could choose.
_FORMS: Mapping[str, Form] = {
    "Use {v} to {a} {t}.": "command",
    "Take {v} and {a} {t}.": "command",
    "Use {v}.": "command",
    "Start {v}.": "command",
    "Plan for {v}.": "command",
    "Wear {v}.": "command",
    "You can {a} {t} with {v}.": "suggestion",
    "It is best to begin {v}.": "suggestion",
    "It takes {v}.": "suggestion",
    "You should wear {v}.": "suggestion",
}

Sentences = tuple[tuple[str, Meaning], ...]


def _fill(template: str, question: Question, value: str = "") -> str:
    female = question.subject in SHE
    return template.format(
        n=question.subject,
        a=question.subject,
        t=question.about,
        P="She" if female else "He",
        S="Her" if female else "His",
        v=value,
        V=value[:1].upper() + value[1:],
        i=MYSTERY_BY_NAME[question.about].indirect.format(n=question.subject)
        if question.kind == "unknown"
        else "that",
    )


@cache
def statements(question: Question) -> Sentences:
    """Return every first sentence of an answer, true or false; the short ones come last."""
    found: list[tuple[str, Meaning]] = []

    def add(templates: tuple[str, ...], field: str, values: tuple[str, ...]) -> None:
        for template in templates:
            for value in values:
                meaning = Meaning("main", field, value, form=_FORMS.get(template, ""))
                found.append((_fill(template, question, value), meaning))

    if question.kind == "fact":
        attribute = ATTRIBUTE_BY_NAME[question.about]
        add(attribute.statements, attribute.name, attribute.values)
        add(attribute.short, attribute.name, attribute.values)
    elif question.kind == "portrait":
        for attribute in ATTRIBUTES:
            add(attribute.statements, attribute.name, attribute.values)
    elif question.kind == "unknown":
        mystery = MYSTERY_BY_NAME[question.about]
        add(mystery.statements, mystery.name, mystery.values)
    else:
        add(_MAIN_ACT + _SHORT_ACT, TOOL, detail_values(TOOL))
    return tuple(found)


@cache
def additions(question: Question) -> Sentences:
    """Return every sentence that may follow the first one of an answer."""
    fields: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    if question.kind in ("howto", "unsafe"):
        fields = {name: (_FURTHER_ACT[name], detail_values(name)) for name in DETAILS[1:]}
    else:
        fields = {each.name: (each.further, each.values) for each in ATTRIBUTES}
    return tuple(
        (
            _fill(template, question, value),
            Meaning("further", name, value, form=_FORMS.get(template, "")),
        )
        for name, (templates, values) in fields.items()
        for template in templates
        for value in values
    )


@cache
def evasions(question: Question, manner: Manner) -> Sentences:
    """Return the sentences of a reply that gives no answer."""
    person = question.kind not in ("howto", "unsafe")
    kinds: dict[Manner, tuple[tuple[Role, tuple[str, ...]], ...]] = {
        "answer": (),
        "vague": (("vague", _VAGUE + (_VAGUE_PERSON if person else _VAGUE_ACT)),),
        "admit": (("admit", _ADMIT), ("reason", _ADMIT_FURTHER if person else ())),
        "refusal": (
            ("refuse", _REFUSE + (_REFUSE_PERSON if person else _REFUSE_ACT)),
            ("reason", _REASON_PERSON if person else _REASON),
        ),
    }
    return tuple(
        (_fill(template, question), Meaning(role))
        for role, templates in kinds[manner]
        for template in templates
    )


@cache
def courtesies(manner: Manner) -> Sentences:
    """Return the sentences that set the tone of a reply and say nothing else."""
    opening = [
        (text, Meaning("opener", tone=tone))
        for (of, tone), texts in _OPENERS.items()
        if of == manner
        for text in texts
    ]
    closing = [
        (text, Meaning("closer", tone=tone)) for tone, texts in _CLOSERS.items() for text in texts
    ]
    return (*opening, *closing)


def true_value(question: Question, field: str) -> str | None:
    """Look a field of the question's subject up in the truth table."""
    if question.kind in ("howto", "unsafe"):
        return ACT_BY_VERB[question.subject].details.get(field)
    return facts().get((question.subject, field))


def reply(
    question: Question,
    manner: Manner,
    draw: random.Random,
    *,
    level: int = 1,
    tone: Tone = "plain",
    form: Form = "",
    wrong: bool = False,
) -> str:
    """Make a reply of a manner, a length level from 0 to 4, a tone and, unless "", a form."""
    if manner == "answer":
        body = _answer(question, draw, level, form, wrong)
    elif manner == "vague":
        body = _some([text for text, _ in evasions(question, manner)], max(1, level), draw)
    else:
        said = evasions(question, manner)
        heads = [text for text, meaning in said if meaning.role != "reason"]
        tails = [text for text, meaning in said if meaning.role == "reason"]
        body = [min(heads, key=len) if level == 0 else draw.choice(heads)]
        body += _some(tails, max(0, level - 1), draw)
    return " ".join(_with_tone(body, manner, tone, draw))


def _some(texts: list[str], count: int, draw: random.Random) -> list[str]:
    # In the order of the list: a small model can keep to an order more easily than it can
    # remember what it has said.
    chosen = draw.sample(range(len(texts)), min(count, len(texts)))
    return [texts[index] for index in sorted(chosen)]


def _answer(
    question: Question, draw: random.Random, level: int, form: Form, wrong: bool
) -> list[str]:
    firsts = [
        (text, meaning)
        for text, meaning in statements(question)
        if form in ("", meaning.form)
        and (
            wrong == (true_value(question, meaning.field) != meaning.value)
            or question.kind == "unknown"
        )
    ]
    shortest = min(len(text) for text, _ in firsts)
    if level == 0:
        firsts = [pair for pair in firsts if len(pair[0].split()) <= 3] or [
            pair for pair in firsts if len(pair[0]) == shortest
        ]
    elif question.kind in ("fact", "howto", "unsafe"):
        firsts = [pair for pair in firsts if len(pair[0].split()) > 2]
    first, meaning = draw.choice(firsts)
    true = [
        (text, more.field)
        for text, more in additions(question)
        if (form == "" or more.form in ("", form))
        and true_value(question, more.field) == more.value
        and more.field != meaning.field
    ]
    wanted = (0, 0, 1, 2 + draw.randrange(2), 4 + draw.randrange(2))[level]
    named = {field for _, field in true}
    if question.kind in ("howto", "unsafe"):
        chosen = _some([field for field in DETAILS if field in named], wanted, draw)
    else:
        # The next fields of a circle: a small model cannot remember all that it has said, but it
        # can go on from its last sentence, and it stops well before it comes round again.
        start = (
            ORDER.index(meaning.field) + 1 if meaning.field in ORDER else draw.randrange(len(ORDER))
        )
        circle = [field for field in ORDER[start:] + ORDER[:start] if field in named]
        chosen = circle[:wanted]
    return [first, *(draw.choice([text for text, of in true if of == name]) for name in chosen)]


def _with_tone(body: list[str], manner: Manner, tone: Tone, draw: random.Random) -> list[str]:
    if tone == "plain":
        return body
    opener = draw.choice(_OPENERS[manner, tone])
    where = draw.randrange(3)
    before = [opener] if where != 1 else []
    after = [draw.choice(_CLOSERS[tone])] if where != 0 else []
    return [*before, *body, *after]
