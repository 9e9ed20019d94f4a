"""The axis by itself, against prefreg's conformance kit, and as prefreg finds it."""

from importlib.metadata import entry_points

import pytest

import prefreg_axis_formality
from prefreg import PreferencePair, SourceRequest
from prefreg.authoring.conformance import assert_conforms
from prefreg_axis_formality import formality, label

(AXIS,) = prefreg_axis_formality.prefreg_register_axes()


def test_the_formal_answer_is_preferred() -> None:
    row = {"prompt": "Is it open?", "formal": "It is closed today.", "casual": "Nope, shut."}
    assert label(row) == PreferencePair.from_texts(
        prompt="Is it open?", chosen="It is closed today.", rejected="Nope, shut."
    )


def test_the_same_answer_twice_is_a_tie() -> None:
    assert label({"prompt": "Is it open?", "formal": "It is.", "casual": "It is."}) is None


@pytest.mark.parametrize("source", AXIS.sources)
def test_every_source_has_distinct_prompts(source: str) -> None:
    rows = list(AXIS.sources[source](SourceRequest()))
    assert len({row["prompt"] for row in rows}) == len(rows) >= 60


def test_the_metric_is_worked_out_by_hand() -> None:
    # "may" and "upon" of five words; then "Yep", "it's", "just" and "!" of four.
    assert formality("", "You may leave upon request.") == 40
    assert formality("", "Yep, it's just fine!") == -100


@pytest.mark.parametrize("source", AXIS.sources)
def test_the_metric_tells_the_answers_apart(source: str) -> None:
    pairs = [label(row) for row in AXIS.sources[source](SourceRequest())]
    apart = [
        formality("", pair.chosen[0].content) > formality("", pair.rejected[0].content)
        for pair in pairs
        if pair is not None
    ]
    assert sum(apart) > 0.8 * len(apart)


@pytest.mark.parametrize("source", AXIS.sources)
def test_the_axis_conforms(source: str) -> None:
    # The smoke run is left to `prefreg check-axis formality`.
    assert_conforms(AXIS, source, train=False)


def test_prefreg_finds_the_installed_axis() -> None:
    (found,) = entry_points(group="prefreg", name="formality")
    assert found.load() is prefreg_axis_formality
