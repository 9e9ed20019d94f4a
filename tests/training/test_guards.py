import re
from dataclasses import replace

import pytest
import torch

from prefreg.errors import GateError, UsageError
from prefreg.training.guards import (
    PoleReport,
    Thresholds,
    check_pair,
    check_pole,
    enforce,
    read_thresholds,
)

BASE = {"weight": torch.zeros(2)}
MOVED = {"weight": torch.tensor([0.0, 1e-9])}
SOUND = PoleReport(
    pairs=100,
    split="heldout",
    accuracy=0.9,
    mean_margin=1.5,
    mean_margin_per_token=0.1,
    chosen_change=-1.0,
    chosen_change_per_token=-0.1,
    rejected_change=-2.0,
    rejected_change_per_token=-0.2,
    preference_accuracy=0.7,
    reference_accuracy=0.5,
)


def test_a_sound_pole_passes() -> None:
    assert check_pole("positive", SOUND, MOVED, BASE) == ()


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("accuracy", 0.49, "held-out accuracy is 0.49 (threshold 0.5)"),
        ("mean_margin", 0.001, "held-out margin in nats is 0.001 (threshold 0.01)"),
        ("mean_margin", float("nan"), "held-out margin in nats is nan"),
        ("chosen_change_per_token", -1.5, "chosen log-probability per token is -1.5"),
        ("rejected_change_per_token", -4.0, "rejected log-probability per token is -4"),
    ],
)
def test_a_figure_that_misses_its_threshold_is_named(figure: str, value: float, words: str) -> None:
    report = replace(SOUND, **{figure: value})  # type: ignore[arg-type]
    [failure] = check_pole("negative", report, MOVED, BASE)
    assert str(failure).startswith("the negative pole's ")
    assert words in str(failure)


def test_weights_that_did_not_change_or_are_not_finite_are_named() -> None:
    [failure] = check_pole("positive", SOUND, BASE, BASE)
    assert "training changed nothing" in str(failure)
    [failure] = check_pole("positive", SOUND, {"weight": torch.tensor([0.0, torch.inf])}, BASE)
    assert "tensors that are not finite is 1" in str(failure)


def test_the_gate_is_an_error_unless_told_to_keep() -> None:
    failures = check_pole("positive", SOUND, BASE, BASE)
    with pytest.raises(GateError, match="Axis 'red' is not kept") as caught:
        enforce(failures, axis_name="red", keep_anyway=False)
    assert caught.value.exit_code == 3
    enforce(failures, axis_name="red", keep_anyway=True)
    enforce((), axis_name="red", keep_anyway=False)


def test_thresholds_are_read_and_the_others_keep_their_defaults() -> None:
    found = read_thresholds(["accuracy=0.6", "repetition_rise=1e-1"])
    assert read_thresholds({"accuracy": 0.6, "repetition_rise": 0.1}) == found
    assert found == replace(Thresholds(), accuracy=0.6, repetition_rise=0.1)
    assert check_pole("positive", SOUND, MOVED, BASE, replace(Thresholds(), accuracy=0.95))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acuracy=0.6", "no guard 'acuracy'. Did you mean 'accuracy'?"),
        ("x=1", "There are: accuracy, mean_margin"),
        ("accuracy", "is not KEY=NUMBER"),
        ("accuracy=high", "is not KEY=NUMBER"),
        ("accuracy=nan", "is not KEY=NUMBER"),
    ],
)
def test_a_threshold_that_is_none_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        read_thresholds([text])


def test_a_pole_that_only_gives_answers_need_not_prefer_them_if_the_pair_does() -> None:
    still = replace(SOUND, accuracy=0.3, mean_margin=-2.0)
    assert len(check_pole("negative", still, MOVED, BASE)) == 2
    assert check_pole("negative", still, MOVED, BASE, prefers=False) == ()
    moved = replace(SOUND, accuracy=0.8, mean_margin=12.0)
    assert check_pair(moved, still) == ()
    weak = replace(SOUND, accuracy=0.6, mean_margin=1.5)
    accuracy, margin = check_pair(weak, still)
    assert (round(accuracy.value, 2), margin.value) == (0.45, -0.25)
    assert str(margin).startswith(
        "the poles' mean held-out margin in nats is -0.25 (threshold 0.01)"
    )
    fallen = replace(still, chosen_change_per_token=-1.5)
    assert len(check_pole("negative", fallen, MOVED, BASE, prefers=False)) == 1
