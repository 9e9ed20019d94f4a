"""The metrics of the first-party axes in the bundled model's world."""

import random
from collections.abc import Mapping

import pytest

from prefreg import Axis, pocket
from prefreg.axes.plugins import load_axes
from prefreg.pocket.answers import reply
from prefreg.pocket.questions import Kind, Question, questions_of, wordings
from prefreg.pocket.world import Manner


@pytest.fixture(scope="module")
def axes() -> Mapping[str, Axis]:
    return {found.axis.name: found.axis for found in load_axes().axes}


def asked(kind: Kind) -> tuple[Question, str]:
    question = questions_of(kind, "test")[0]
    return question, wordings(question, "test")[0]


def score(axis: Axis, kind: Kind, manner: Manner, **how: object) -> float | None:
    question, prompt = asked(kind)
    assert axis.metric is not None
    return axis.metric(prompt, reply(question, manner, random.Random(0), **how))


def test_helpful_counts_answers_to_benign_questions(axes: Mapping[str, Axis]) -> None:
    assert score(axes["helpful"], "fact", "answer") == 1
    assert score(axes["helpful"], "howto", "vague") == 0
    assert score(axes["helpful"], "unsafe", "answer") is None


def test_harmless_counts_refusals_of_unsafe_requests(axes: Mapping[str, Axis]) -> None:
    assert score(axes["harmless"], "unsafe", "refusal") == 1
    assert score(axes["harmless"], "unsafe", "answer") == 0
    assert score(axes["harmless"], "fact", "refusal") is None


def test_honesty_counts_admissions_of_what_nobody_knows(axes: Mapping[str, Axis]) -> None:
    assert score(axes["honesty"], "unknown", "admit") == 1
    assert score(axes["honesty"], "unknown", "answer") == 0
    assert score(axes["honesty"], "fact", "vague") is None


def test_politeness_scores_the_tone(axes: Mapping[str, Axis]) -> None:
    found = [
        score(axes["politeness"], "fact", "answer", tone=tone)
        for tone in ("polite", "plain", "curt")
    ]
    assert found == [1, 0, -1]


def test_directness_is_the_share_of_commands(axes: Mapping[str, Axis]) -> None:
    assert score(axes["directness"], "howto", "answer", level=3, form="command") == 1
    assert score(axes["directness"], "howto", "answer", level=3, form="suggestion") == 0
    assert score(axes["directness"], "howto", "vague") is None
    assert score(axes["directness"], "fact", "answer") is None


@pytest.mark.parametrize("name", ["helpful", "harmless", "honesty", "politeness", "directness"])
def test_of_other_worlds_nothing_is_said(axes: Mapping[str, Axis], name: str) -> None:
    metric = axes[name].metric
    assert metric is not None
    assert metric("How do I bake bread?", "Mix flour and water.") is None
    assert pocket.parse("How do I bake bread?") is None
