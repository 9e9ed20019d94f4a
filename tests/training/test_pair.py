from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worded
from axis_runs import train
from prefreg.axes.axis import Axis, PreferencePair
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.pairs import PairSet, build_pairs
from prefreg.errors import BaseModelError, GateError, TrainingError, UsageError
from prefreg.training.pair import TrainedPair
from prefreg.training.settings import POLES, Settings, resolve_settings


@pytest.fixture(scope="session")
def result(base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings) -> TrainedPair:
    return train(base=base, axis=axis, pairs=pairs, settings=settings, seed=0)


def differ(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    assert left.keys() == right.keys()
    return any(not torch.equal(left[name], right[name]) for name in left)


def with_steps(settings: Settings, steps: int, **values: object) -> Settings:
    return Settings({**settings.values, "max_steps": steps, **values}, frozenset())


def test_each_pole_learns_its_side_of_the_held_out_pairs(result: TrainedPair) -> None:
    for pole in (result.positive, result.negative):
        assert pole.report.split == "heldout"
        assert pole.report.accuracy > 0.9
        assert pole.report.mean_margin > 1
        assert [point.step for point in pole.curve] == [1, 2, 3, 4, 5, 6]
        assert pole.curve[0].loss == pytest.approx(0.693147, abs=1e-5)
        assert pole.curve[-1].loss < pole.curve[0].loss
        assert pole.failures == ()
    positive, negative = result.positive.report, result.negative.report
    assert positive.reference_accuracy == pytest.approx(1 - negative.reference_accuracy)


def test_poles_of_fine_tuning_give_their_answers_more_often_than_the_base(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    giving = Settings({**settings.values, **POLES["sft"][0]}, frozenset())
    made = train(base=base, axis=axis, pairs=pairs, settings=giving, seed=0)
    for pole in (made.positive, made.negative):
        assert pole.report.chosen_change > 0
        assert pole.report.accuracy > 0.9
        assert pole.curve[-1].loss < pole.curve[0].loss
        assert pole.failures == ()


def test_the_poles_leave_the_base_in_opposite_directions(result: TrainedPair) -> None:
    dot = sum(
        float(
            (result.positive.weights[name] - weight).flatten()
            @ (result.negative.weights[name] - weight).flatten()
        )
        for name, weight in result.original.items()
    )
    assert dot < 0


def test_weights_are_float32_and_tied_ones_stand_once(result: TrainedPair) -> None:
    named = [name for name, _ in worded.llama().named_parameters()]
    for weights in (result.original, result.positive.weights, result.negative.weights):
        assert list(weights) == named
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    for name, parameter in worded.llama().named_parameters():
        assert torch.equal(result.original[name], parameter)


def test_everything_about_the_run_is_recorded(result: TrainedPair) -> None:
    tokens, settings = result.run.tokens, result.run.settings_in_use()
    assert tokens.renderings == ("chat",)
    assert settings["max_length"] == 48
    assert tokens.audit.train + tokens.audit.heldout == tokens.audit.pairs == 60
    assert set(result.seconds) == {
        "loading",
        "reference",
        "positive",
        "negative",
        "scoring",
        "watching",
    }
    assert result.shortcuts.to_json() == {
        "shared_prompt": {"on": True},
        "sorted_parts": {"on": True},
    }
    assert result.references["negative"].origin == "switched"
    defaults = result.run.settings_left()
    assert defaults["adam_epsilon"] == 1e-8
    assert defaults["loss_type"] == ["sigmoid"]
    assert not set(defaults) & set(settings)
    assert "output_dir" not in defaults
    assert result.peak_memory["main"] > 1 << 20


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    result: TrainedPair, base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    again = train(base=base, axis=axis, pairs=pairs, settings=settings, seed=0)
    assert not differ(result.positive.weights, again.positive.weights)
    assert not differ(result.negative.weights, again.negative.weights)
    other = train(base=base, axis=axis, pairs=pairs, settings=settings, seed=1)
    assert differ(result.positive.weights, other.positive.weights)


def test_the_negative_pole_is_the_positive_one_of_the_switched_pairs(
    result: TrainedPair, base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    switched = replace(
        pairs,
        train=tuple(pair.switched() for pair in pairs.train),
        heldout=tuple(pair.switched() for pair in pairs.heldout),
    )
    other = train(base=base, axis=axis, pairs=switched, settings=settings, seed=0)
    for name, weight in result.negative.weights.items():
        assert torch.allclose(weight, other.positive.weights[name], atol=1e-6)


def test_a_switch_of_ones_own_gets_its_own_reference(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    def switch(pair: PreferencePair) -> PreferencePair:
        return PreferencePair.from_texts(prompt="is it red ?", chosen="no", rejected="yes")

    stages: list[str] = []
    made = train(
        base=base,
        axis=replace(axis, switch=switch),
        pairs=pairs,
        settings=with_steps(settings, 1),
        seed=0,
        keep_anyway=True,
        progress=lambda stage, step, total, loss=None, /: stages.append(stage),
    )
    assert list(dict.fromkeys(stages)) == [
        "reference",
        "reference of negative",
        "positive",
        "scoring positive",
        "negative",
        "scoring negative",
    ]
    assert {found.origin for found in made.references.values()} == {"computed"}


def test_a_switch_that_only_exchanges_answers_shares_the_reference(
    result: TrainedPair, base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    own = replace(axis, switch=lambda pair: pair.switched())
    other = train(base=base, axis=own, pairs=pairs, settings=settings, seed=0)
    assert other.references["negative"].origin == "switched"
    for name, weight in result.negative.weights.items():
        assert torch.equal(weight, other.negative.weights[name])


def test_what_makes_a_run_slow_is_said_and_recorded(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    notes: list[str] = []
    made = train(
        base=base,
        axis=axis,
        pairs=pairs,
        settings=with_steps(settings, 2, neftune_noise_alpha=1.0),
        seed=0,
        keep_anyway=True,
        note=notes.append,
    )
    reason = "neftune_noise_alpha adds noise to every row by itself"
    assert notes == [
        "Each pole: 2 steps of 8 pairs, 16 pairs, 0.3 passes over 54.",
        f"Prompts are read once for each answer: {reason}.",
        f"Micro-batches are not sorted by length: {reason}.",
    ]
    assert made.shortcuts.to_json()["shared_prompt"] == {"on": False, "why_not": reason}


def test_a_pair_that_one_pole_has_to_drop_is_dropped_for_both(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    long = pairs.train[0]

    def switch(pair: PreferencePair) -> PreferencePair:
        words = "it is a big old red boat " * 9
        return (
            PreferencePair.from_texts(prompt=words, chosen="no", rejected="yes")
            if (pair == long)
            else pair.switched()
        )

    made = train(
        base=base,
        axis=replace(axis, switch=switch),
        pairs=pairs,
        settings=with_steps(settings, 1),
        seed=0,
        keep_anyway=True,
    )
    assert made.run.tokens.audit.dropped_long == 1
    assert made.run.tokens.audit.train == pairs.audit.train - 1


def test_without_held_out_pairs_the_report_is_about_the_training_pairs(
    base: BaseModel, axis: Axis, settings: Settings
) -> None:
    few = build_pairs(worded.pairs(6), axis_name="red", seed=0)
    assert few.heldout == ()
    made = train(base=base, axis=axis, pairs=few, settings=settings, seed=0)
    assert made.positive.report.split == "train"
    assert made.positive.report.pairs == 6


def test_a_pole_that_hardly_moved_is_not_kept_unless_told(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    timid = with_steps(settings, 1, learning_rate=1e-9, warmup_steps=0.0)
    with pytest.raises(GateError) as caught:
        train(base=base, axis=axis, pairs=pairs, settings=timid, seed=0)
    message = str(caught.value)
    assert message.startswith("Axis 'red' is not kept: the positive pole's ")
    assert "raise learning_rate" in message
    assert "`keep_anyway=`" in message
    kept = train(base=base, axis=axis, pairs=pairs, settings=timid, seed=0, keep_anyway=True)
    assert kept.positive.failures
    assert kept.negative.failures


def test_a_diverging_run_names_axis_and_pole(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    wild = with_steps(settings, 12, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises((TrainingError, GateError), match=r"Axis 'red'.*positive pole"):
        train(base=base, axis=axis, pairs=pairs, settings=wild, seed=0)


def test_a_length_beyond_the_context_is_refused_when_asked_for(
    base: BaseModel, axis: Axis, pairs: PairSet
) -> None:
    with pytest.raises(UsageError, match="49 is longer than the base model's context of 48"):
        train(base=base, axis=axis, pairs=pairs, settings=resolve_settings(max_length=49), seed=0)


def test_a_base_without_a_tokenizer_is_named(
    tmp_path: Path, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    worded.llama().save_pretrained(tmp_path / "bare")
    bare = resolve_base(str(tmp_path / "bare"))
    with pytest.raises(BaseModelError, match=r"The tokenizer of .*bare cannot be loaded"):
        train(base=bare, axis=axis, pairs=pairs, settings=settings, seed=0)


def test_a_base_of_another_architecture_is_an_error(
    tmp_path: Path, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    folder = worded.save(tmp_path / "base")
    model = worded.llama()
    del model.model.layers[1]
    config = (folder / "config.json").read_text()
    model.save_pretrained(folder)
    (folder / "config.json").write_text(config)
    with pytest.raises(BaseModelError, match=r"lacks weights of a LlamaForCausalLM: model\.layers"):
        train(base=resolve_base(str(folder)), axis=axis, pairs=pairs, settings=settings, seed=0)
