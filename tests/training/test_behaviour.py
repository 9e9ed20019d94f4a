"""What a vector does to answers at the end of its training, and what is said of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from axis_runs import train
from prefreg.axes.axis import Axis, Message
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.pairs import PairSet, build_pairs
from prefreg.models.loading import load_model, load_tokenizer
from prefreg.training.add_axis import extract_pair
from prefreg.training.behaviour import Behaviour, observe
from prefreg.training.guards import Guards
from prefreg.training.pair import TrainedPair
from prefreg.training.settings import POLES, Settings

UNWATCHED: Any = {"guards": Guards(watched=False), "keep_anyway": True}


def reds(prompt: str, answer: str) -> float:
    return answer.count("red")


@pytest.fixture(scope="module")
def made(base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings) -> TrainedPair:
    longer = Settings({**settings.values, "max_steps": 12}, frozenset())
    return train(base, replace(axis, metric=reds), pairs, longer)


def seen(
    pair: TrainedPair, folder: Path, axis: Axis | None = None, guards: Guards | None = None
) -> Behaviour:
    blob = folder / "vector.safetensors"
    extract_pair(pair, blob)
    run = pair.run
    found = replace(run.found.installed, axis=axis or run.axis)
    changed = replace(
        run, found=replace(run.found, installed=found), guards=guards or pair.run.guards
    )
    return observe(replace(pair, run=changed), blob)


def test_the_metric_of_the_likeliest_answers_follows_the_coefficient(
    made: TrainedPair, tmp_path: Path
) -> None:
    found = seen(made, tmp_path)
    assert [each.eta for each in found.turned] == [0, 1, -1]
    base, plus, minus = found.turned
    assert base.metric is not None
    assert plus.metric is not None
    assert minus.metric is not None
    assert minus.metric <= base.metric < plus.metric
    assert plus.change == pytest.approx(plus.metric - base.metric)
    assert (base.change, base.answers.unchanged) == (None, None)
    assert base.answers.looping > 0.5  # as a random model does
    assert found.failures == ()
    assert any("likeliest answers loop, so loops are not judged" in note for note in found.notes)
    assert "at η = −1 / 0 / 1, of " in found.notes[0]
    assert not any("the behaviour did not" in note for note in found.notes if "= +1" in note)
    again = seen(made, tmp_path)
    assert again == found
    assert found.to_json()["answers"][1]["metric"] == plus.metric


def test_a_behaviour_that_stands_still_is_said_plainly(made: TrainedPair, tmp_path: Path) -> None:
    found = seen(made, tmp_path, replace(made.run.axis, metric=lambda prompt, answer: 3.0))
    said = [note for note in found.notes if "the margin moved and the behaviour did not" in note]
    assert len(said) == 2
    assert "At η = +1" in said[0]
    assert "the metric is 3, 3 with the base" in said[0]


def test_without_a_metric_answers_that_moved_are_not_complained_of(
    made: TrainedPair, tmp_path: Path
) -> None:
    found = seen(made, tmp_path, replace(made.run.axis, metric=None))
    assert all(each.metric is None for each in found.turned)
    assert not any("= +1 the margin moved" in note for note in found.notes)


def test_a_metric_that_fails_loses_no_vector(made: TrainedPair, tmp_path: Path) -> None:
    def broken(prompt: str, answer: str) -> float:
        raise ZeroDivisionError("no words")

    found = seen(made, tmp_path, replace(made.run.axis, metric=broken))
    assert [each.metric for each in found.turned] == [None, None, None]
    assert any("The metric of axis 'red' failed" in note for note in found.notes)
    assert found.turned[1].answers.length > 0


def test_a_vector_that_makes_answers_loop_is_refused(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings, tmp_path: Path
) -> None:
    """Train a base that answers soundly, then a pair on it that says one word for ever."""
    folder = tmp_path / "sound"
    longer = Settings({**settings.values, "max_steps": 40}, frozenset())
    giving = Settings({**longer.values, **POLES["sft"][0]}, frozenset())
    pole = train(base, axis, pairs, giving, **UNWATCHED)
    model = load_model(base)
    weights = dict(model.named_parameters())
    for name, weight in pole.positive.weights.items():
        weights[name].data.copy_(weight)
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    sound = resolve_base(str(folder))
    twice = [
        replace(pair, chosen=(Message("assistant", " ".join(["red"] * 7)),))
        for pair in (*pairs.train, *pairs.heldout)
    ]
    asked = build_pairs(twice, axis_name=axis.name, seed=0)
    made = train(sound, axis, asked, longer, **UNWATCHED)
    found = seen(made, tmp_path, guards=Guards(prompts=8))
    assert found.turned[0].answers.looping < 0.5
    assert found.failures[0].pole == "positive"
    assert "share of answers that loop at η = +1 is" in str(found.failures[0])


@pytest.mark.parametrize(
    ("guards", "reason"),
    [
        (Guards(watched=False), "nothing is watched"),
        (Guards(prompts=0), "no prompts were asked for"),
        (Guards(prompts=2), "too few held-out prompts leave room for an answer"),
    ],
)
def test_what_is_not_looked_at_is_said(
    made: TrainedPair, tmp_path: Path, guards: Guards, reason: str
) -> None:
    found = seen(made, tmp_path, guards=guards)
    assert found.turned == ()
    assert found.notes == (f"What answers do at η = ±1 was not looked at: {reason}",)
