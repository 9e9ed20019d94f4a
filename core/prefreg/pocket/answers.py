"""What one can answer: sentences with their meaning, and whole answers made of them."""

import random
from functools import lru_cache
from typing import Literal, NamedTuple

from prefreg.pocket.questions import Question
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import DETAILS, TOOL, Form, Manner, Tone, World

Role = Literal["main", "further", "vague", "admit", "refuse", "reason", "opener", "closer"]
LEVELS = range(5)


class Meaning(NamedTuple):
    """What one sentence says: its role, the field and value it states, its tone and form."""

    role: Role
    field: str = ""
    value: str = ""
    tone: Tone = "plain"
    form: Form = ""


Sentences = tuple[tuple[str, Meaning], ...]


def _fill(template: str, question: Question, value: str = "") -> str:
    female = question.subject in question.world.she
    return template.format(
        n=question.subject,
        a=question.subject,
        t=question.about,
        P="She" if female else "He",
        S="Her" if female else "His",
        v=value,
        V=value[:1].upper() + value[1:],
        i=question.world.mystery_named[question.about].indirect.format(n=question.subject)
        if question.kind == "unknown"
        else "that",
    )


@lru_cache(maxsize=4096)
def statements(question: Question) -> Sentences:
    """Return every first sentence of an answer, true or false; the short ones come last."""
    world, common = question.world, question.world.phrasings
    found: list[tuple[str, Meaning]] = []

    def add(templates: tuple[str, ...], field: str, values: tuple[str, ...]) -> None:
        for template in templates:
            for value in values:
                meaning = Meaning("main", field, value, form=common.forms.get(template, ""))
                found.append((_fill(template, question, value), meaning))

    if question.kind == "fact":
        attribute = world.attribute_named[question.about]
        add(attribute.statements, attribute.name, attribute.values)
        add(attribute.short, attribute.name, attribute.values)
    elif question.kind == "portrait":
        for attribute in world.attributes:
            add(attribute.statements, attribute.name, attribute.values)
    elif question.kind == "unknown":
        mystery = world.mystery_named[question.about]
        add(mystery.statements, mystery.name, mystery.values)
    else:
        add(common.main_act + common.short_act, TOOL, world.detail_values(TOOL))
    return tuple(found)


@lru_cache(maxsize=4096)
def additions(question: Question) -> Sentences:
    """Return every sentence that may follow the first one of an answer."""
    world, common = question.world, question.world.phrasings
    fields: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    if question.kind in ("howto", "unsafe"):
        fields = {
            name: (common.further_act[name], world.detail_values(name)) for name in DETAILS[1:]
        }
    else:
        fields = {each.name: (each.further, each.values) for each in world.attributes}
    return tuple(
        (
            _fill(template, question, value),
            Meaning("further", name, value, form=common.forms.get(template, "")),
        )
        for name, (templates, values) in fields.items()
        for template in templates
        for value in values
    )


@lru_cache(maxsize=4096)
def evasions(question: Question, manner: Manner) -> Sentences:
    """Return the sentences of a reply that gives no answer."""
    common = question.world.phrasings
    person = question.kind not in ("howto", "unsafe")
    vague = common.vague_person if person else common.vague_act
    refuse = common.refuse_person if person else common.refuse_act
    kinds: dict[Manner, tuple[tuple[Role, tuple[str, ...]], ...]] = {
        "answer": (),
        "vague": (("vague", common.vague + vague),),
        "admit": (
            ("admit", common.admit),
            ("reason", common.admit_further if person else ()),
        ),
        "refusal": (
            ("refuse", common.refuse + refuse),
            ("reason", common.reason_person if person else common.reason),
        ),
    }
    return tuple(
        (_fill(template, question), Meaning(role))
        for role, templates in kinds[manner]
        for template in templates
    )


@lru_cache(maxsize=4096)
def courtesies(manner: Manner, world: World = VILLAGE) -> Sentences:
    """Return the sentences that set the tone of a reply and say nothing else."""
    opening = [
        (text, Meaning("opener", tone=tone))
        for (of, tone), texts in world.phrasings.before.items()
        if of == manner
        for text in texts
    ]
    closing = [
        (text, Meaning("closer", tone=tone))
        for tone, texts in world.phrasings.after.items()
        for text in texts
    ]
    return (*opening, *closing)


def true_value(question: Question, field: str) -> str | None:
    """Look a field of the question's subject up in the truth table."""
    if question.kind in ("howto", "unsafe"):
        return question.world.act_named[question.subject].details.get(field)
    return question.world.facts.get((question.subject, field))


@lru_cache(maxsize=4096)
def _true_additions(question: Question) -> Sentences:
    return tuple(
        (text, more)
        for text, more in additions(question)
        if true_value(question, more.field) == more.value
    )


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
    return " ".join(_with_tone(body, question.world, manner, tone, draw))


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
        for text, more in _true_additions(question)
        if (form == "" or more.form in ("", form)) and more.field != meaning.field
    ]
    wanted = (0, 0, 1, 2 + draw.randrange(2), 4 + draw.randrange(2))[level]
    named = {field for _, field in true}
    if question.kind in ("howto", "unsafe"):
        chosen = _some([field for field in DETAILS if field in named], wanted, draw)
    else:
        # The next fields of a circle: a small model cannot remember all that it has said, but it
        # can go on from its last sentence, and it stops well before it comes round again.
        order = [attribute.name for attribute in question.world.attributes]
        start = (
            order.index(meaning.field) + 1 if meaning.field in order else draw.randrange(len(order))
        )
        circle = [field for field in order[start:] + order[:start] if field in named]
        chosen = circle[:wanted]
    return [first, *(draw.choice([text for text, of in true if of == name]) for name in chosen)]


def _with_tone(
    body: list[str], world: World, manner: Manner, tone: Tone, draw: random.Random
) -> list[str]:
    if tone == "plain":
        return body
    opener = draw.choice(world.phrasings.before[manner, tone])
    where = draw.randrange(3)
    before = [opener] if where != 1 else []
    after = [draw.choice(world.phrasings.after[tone])] if where != 0 else []
    return [*before, *body, *after]
