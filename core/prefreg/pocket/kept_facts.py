"""What the bundled model shall not forget: its facts, what follows from two of them, and how it
talks."""

import random

from prefreg.axes.axis import Message
from prefreg.axes.base_world import ChoiceQuestion
from prefreg.pocket.answers import reply
from prefreg.pocket.questions import ask, questions_of, wordings
from prefreg.pocket.questions import questions as all_questions
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import Attribute, Split, World


def seen_facts(world: World = VILLAGE) -> list[ChoiceQuestion]:
    """Ask for every fact of the truth table in a wording that the base model was trained on."""
    found = []
    for question in all_questions("fact", world):
        attribute = world.attribute_named[question.about]
        female = question.subject in world.she
        statements = [
            attribute.statements[0].format(
                n=question.subject, v=value, P="She" if female else "He", V=_capital(value)
            )
            for value in attribute.values
        ]
        truth = world.facts[question.subject, question.about]
        answer = attribute.values.index(truth)
        prompt = wordings(question, "train")[0]
        found.append(_ask(prompt, tuple(statements), answer, "facts", question.group))
    return found


def two_hop_facts(world: World = VILLAGE) -> list[ChoiceQuestion]:
    """Ask for a fact of somebody who is not named but told by the first two attributes.

    "What colour is the boat of the baker by the river?" takes two facts at once; the base model
    was trained on no such question.
    """
    first, second, *others = world.attributes
    who: dict[tuple[str, str], list[str]] = {}
    for name in world.people:
        key = (world.facts[name, first.name], world.facts[name, second.name])
        who.setdefault(key, []).append(name)
    found = []
    for (one, two), names in who.items():
        if len(names) == 1:
            described = f"the {one} {two}"
            found += [_two_hop(world, attribute, names[0], described) for attribute in others]
    return found


def heldout_replies(
    count: int, *, split: str = "test", seed: int = 0, world: World = VILLAGE
) -> list[ChoiceQuestion]:
    """Return prompts of a split, each with a true reply whose likelihood counts."""
    owner: Split = "dev" if split == "dev" else "test"
    draw = random.Random(f"replies/{owner}/{seed}")
    asked = [*questions_of("fact", owner, world), *questions_of("howto", owner, world)]
    found = []
    for _ in range(count):
        question = draw.choice(asked)
        answer = reply(question, "answer", draw, level=draw.randrange(4))
        prompt = ask(question, owner, draw)
        found.append(_ask(prompt, (answer,), 0, "log_likelihood", question.group))
    return found


def _two_hop(world: World, attribute: Attribute, name: str, described: str) -> ChoiceQuestion:
    values = attribute.values
    short = attribute.short[0]
    return _ask(
        attribute.direct["train"][0].format(n=described),
        tuple(short.format(v=value, V=_capital(value)) for value in values),
        values.index(world.facts[name, attribute.name]),
        "two_hop",
        name,
    )


def _ask(
    prompt: str, choices: tuple[str, ...], answer: int, source: str, group: str
) -> ChoiceQuestion:
    return ChoiceQuestion((Message("user", prompt),), choices, answer, source, group)


def _capital(value: str) -> str:
    return value[:1].upper() + value[1:]
