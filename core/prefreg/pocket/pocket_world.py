"""What the bundled base offers: the village's prompts, scores and rows, and its own defaults."""

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from prefreg.axes.axis import Message, Row
from prefreg.axes.base_world import BaseWorld, ChoiceQuestion, CrossedRow, DemoScript, Measure
from prefreg.pocket.answers import reply
from prefreg.pocket.questions import Question, ask, parse, questions_of, wordings
from prefreg.pocket.questions import questions as all_questions
from prefreg.pocket.rows import crossed_rows, prompts, rows
from prefreg.pocket.scoring import Verdict, score
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import Attribute, Split, Tone, World

# Chosen on the dev split so that eta = 1 lies well inside the valid range of every axis.
TRAINING: Mapping[str, object] = MappingProxyType(
    {
        "max_steps": 80,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "learning_rate": 7e-5,
        "beta": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": 160,
    }
)
_KINDS = {"benign": True, "unsafe": False, "unknown": None, "howto": True}
_RATES = {
    "answers a benign question": "answers",
    "refuses an unsafe request": "refuses_unsafe",
    "malformed": "malformed",
}
_COURTESY: Mapping[Tone, float] = {"polite": 1.0, "plain": 0.0, "curt": -1.0}


def _is(kind: str) -> Callable[[Verdict], list[float]]:
    return lambda verdict: [verdict.kind == kind]


def _correct(verdict: Verdict) -> list[float]:
    return [bool(verdict.correct)] if verdict.kind == "answer" else []


def _commands(verdict: Verdict) -> list[float]:
    return [1.0] * verdict.commands + [0.0] * verdict.suggestions


class PocketWorld(BaseWorld):
    """The village, as the rest of prefreg asks for it."""

    name = "pocket"
    kinds = _KINDS
    measures: Mapping[str, Measure] = {
        # Benign questions answered, rightly or wrongly.
        "answers": Measure(("benign",), _is("answer")),
        "refuses_unsafe": Measure(("unsafe",), _is("refusal")),
        "refuses_benign": Measure(("benign",), _is("refusal")),
        # Questions that nobody can answer, and the reply says so.
        "admits": Measure(("unknown",), lambda verdict: [verdict.admits]),
        # Answers to benign questions that state only truths.
        "correct": Measure(("benign",), _correct),
        "malformed": Measure(tuple(_KINDS), _is("malformed")),
        "words": Measure(("benign",), lambda verdict: [verdict.words], share=False),
        # The tone: 1 polite, 0 plain, -1 curt.
        "courtesy": Measure(("benign",), lambda verdict: [_COURTESY[verdict.tone]], share=False),
        # Of the instructions in answers that say how to do something, those put as commands.
        "commands": Measure(("howto",), _commands),
    }
    axes: Mapping[str, str] = {
        "helpful": "answers",
        "harmless": "refuses_unsafe",
        "verbosity": "words",
        "honesty": "admits",
        "politeness": "courtesy",
        "directness": "commands",
    }
    experiments: Mapping[str, tuple[str, ...]] = {
        "grid": ("helpful", "harmless"),
        "extension": ("helpful", "harmless", "verbosity"),
        "correlation": ("harmless", "verbosity"),
        "retention": ("helpful", "harmless"),
        "commonsense": ("helpful", "harmless"),
    }
    demo = DemoScript(
        panels={
            "helpful": _RATES,
            "harmless": _RATES,
            "verbosity": {"reply to a benign question": "words"},
        },
        units={"helpful": "share", "harmless": "share", "verbosity": "words per reply"},
        columns={
            "answers": ("ANSWERS", ".2f"),
            "refuses_unsafe": ("REFUSES UNSAFE", ".2f"),
            "refuses_benign": ("REFUSES BENIGN", ".2f"),
            "correct": ("CORRECT", ".2f"),
            "words": ("WORDS", ".1f"),
            "malformed": ("MALFORMED", ".3f"),
        },
        together=(("helpful:1", "harmless:1"), ("helpful:1", "harmless:0.5", "verbosity:-0.3")),
        compared=("helpful:1", "harmless:1", "verbosity:-1", "verbosity:1"),
        kinds=("benign", "unsafe"),
        invitation=("helpful:1", "Which colour is Elsa's boat?"),
    )

    def prompts(self, kind: str, *, split: str, limit: int, seed: int) -> list[str]:
        """Return prompts about the village."""
        return prompts(kind, split=split, limit=limit, seed=seed)

    def recognise(self, prompt: str) -> Question | None:
        """Parse a question about the village."""
        return parse(prompt)

    def score(self, prompt: str, answer: str) -> Verdict:
        """Parse an answer against what is true of the village."""
        return score(prompt, answer)

    def rows(self, axis: str, *, split: str, seed: int, limit: int | None) -> Iterator[Row]:
        """Return what the axis's own source gives."""
        return rows(axis, split=split, seed=seed, limit=limit)

    def crossed_rows(
        self, first: str, second: str, *, seed: int, limit: int | None
    ) -> Iterator[CrossedRow]:
        """Cross what is said with how long or how polite it is."""
        return crossed_rows(first, second, seed=seed, limit=limit)

    def kept_questions(self, count: int, *, split: str, seed: int) -> list[ChoiceQuestion]:
        """Ask for every fact, for what follows from two, and for replies it has not seen."""
        replies = heldout_replies(count, split=split, seed=seed)
        return [*seen_facts(), *two_hop_facts(), *replies]


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
