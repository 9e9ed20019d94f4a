import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import worded
from axis_runs import train
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.pairs import PairSet
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.errors import GateError
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.training.callbacks import Check, PoleChecks, check_interval, step_work
from prefreg.training.guards import Guards, Thresholds
from prefreg.training.references import References
from prefreg.training.settings import Settings

ONE = {"per_device_train_batch_size": 1}


@pytest.fixture(scope="module")
def tokens() -> tuple[TokenPair, ...]:
    return tokenise_pairs(worded.pairs(24), worded.tokenizer(), max_length=48).pairs


@pytest.fixture(scope="module")
def scorer(base: BaseModel) -> References:
    return References(base, "float32", rows=True)


def checks_of(
    tokens: tuple[TokenPair, ...], model: torch.nn.Module, scorer: References, *, limit: float
) -> PoleChecks:
    reference = answer_log_probs(worded.llama(), tokens)
    thresholds = replace(Thresholds(), chosen_drop_per_token=limit, rejected_drop_per_token=limit)
    return PoleChecks(model, tokens, reference, interval=2, scorer=scorer, thresholds=thresholds)  # type: ignore[arg-type]


def step(found: PoleChecks, number: int) -> SimpleNamespace:
    control = SimpleNamespace(should_training_stop=False, should_save=True)
    found.on_step_end(None, SimpleNamespace(global_step=number, max_steps=10), control)
    return control


def test_it_looks_now_and_then_and_not_after_the_last_step(
    tokens: tuple[TokenPair, ...], scorer: References
) -> None:
    found = checks_of(tokens, worded.llama(), scorer, limit=1.0)
    for number in range(1, 11):
        assert not step(found, number).should_training_stop
    assert [check.step for check in found.seen] == [2, 4, 6, 8]
    assert found.seen[0] == Check(2, 0.5, 0.0, 0.0, 0.0)


def test_a_collapse_is_stopped_and_the_last_sound_weights_come_back(
    tokens: tuple[TokenPair, ...], scorer: References, tmp_path: Path
) -> None:
    model = worded.llama()
    found = checks_of(tokens, model, scorer, limit=1.0)
    step(found, 2)
    sound = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    found.save(tmp_path)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-3)
    again = checks_of(tokens, model, scorer, limit=1.0)
    again.load(tmp_path)  # as a process does that goes on from a checkpoint
    control = step(again, 4)
    assert (control.should_training_stop, control.should_save) == (True, False)
    assert again.stop is not None
    assert (again.stop.step, again.stop.kept) == (4, 2)
    assert str(again.stop).endswith("(limit 1) at step 4; step 2 is kept")
    again.restore()
    assert all(torch.equal(weight, sound[name]) for name, weight in model.named_parameters())


def test_a_pole_that_never_was_sound_is_an_error(
    tokens: tuple[TokenPair, ...], scorer: References
) -> None:
    with pytest.raises(GateError, match=r"the chosen answers lost .* before anything sound"):
        step(checks_of(tokens, worded.llama(seed=5), scorer, limit=1e-9), 2)


def test_numbers_that_are_none_are_a_collapse(
    tokens: tuple[TokenPair, ...], scorer: References
) -> None:
    model = worded.llama()
    found = checks_of(tokens, model, scorer, limit=1.0)
    step(found, 2)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert step(found, 4).should_training_stop


def test_how_often_it_looks_follows_from_the_tokens(
    tokens: tuple[TokenPair, ...], scorer: References
) -> None:
    one, many = (
        step_work(tokens, Settings({**ONE, "gradient_accumulation_steps": count}, frozenset()))
        for count in (1, 64)
    )
    assert many == 64 * one > 64 * 3 * min(len(pair.prompt_ids) for pair in tokens)
    rare = check_interval(tokens, work=one, steps=100)
    often = check_interval(tokens, work=many, steps=100)
    assert rare > often >= 100 / 20
    assert rare == check_interval(tokens, work=one, steps=100)


def test_watching_changes_no_weight_and_stands_in_the_result(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    longer = replace(settings, values={**settings.values, "per_device_train_batch_size": 32})
    made, blind = (
        train(
            base=base,
            axis=axis,
            pairs=pairs,
            settings=longer,
            seed=0,
            keep_anyway=True,
            guards=Guards(watched=on),
        )
        for on in (True, False)
    )
    for pole in ("positive", "negative"):
        seen, other = getattr(made, pole), getattr(blind, pole)
        assert seen.checks
        assert [seen.answers[place].step for place in (0, -1)] == [0, 6]
        assert seen.answers[0] == made.positive.answers[0]
        assert seen.stop is None
        assert not other.checks
        assert not other.answers
        for name, weight in seen.weights.items():
            assert torch.equal(weight, other.weights[name])
        assert all(point.grad_norm and point.grad_norm > 0 for point in seen.curve)
    assert 0 < made.seconds["watching"] < made.seconds["positive"] + made.seconds["negative"]


def test_dropout_draws_the_same_whether_a_pole_answers_or_not(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings, tmp_path: Path
) -> None:
    folder = worded.save(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    dropping = resolve_base(str(folder))

    def weights(model: BaseModel, prompts: int) -> dict[str, torch.Tensor]:
        made = train(
            base=model,
            axis=axis,
            pairs=pairs,
            settings=settings,
            seed=0,
            keep_anyway=True,
            guards=Guards(prompts=prompts),
        )
        assert len(made.positive.answers) == (2 if prompts else 0)
        return made.positive.weights

    loud, silent = weights(dropping, 8), weights(dropping, 0)
    assert all(torch.equal(weight, silent[name]) for name, weight in loud.items())
    steady = weights(base, 0)
    assert not all(torch.equal(weight, silent[name]) for name, weight in steady.items())


def test_answers_that_fall_apart_stop_a_pole(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    """With a limit below what it does anyway, a sound pole counts as one that fell apart."""
    often = {"per_device_train_batch_size": 64, "max_steps": 40}
    notes: list[str] = []
    made = train(
        base=base,
        axis=axis,
        pairs=pairs,
        settings=replace(settings, values={**settings.values, **often}),
        seed=0,
        keep_anyway=True,
        guards=Guards(replace(Thresholds(), empty_rise=-0.5)),
        note=notes.append,
    )
    stop = made.positive.stop
    assert stop is not None
    assert "of its answers are empty" in stop.reason
    assert 0 < stop.kept < stop.step
    assert made.positive.answers[-1].step == stop.step
    assert any(note.startswith("The positive pole was stopped: ") for note in notes)


def test_a_run_that_collapses_is_stopped_and_keeps_what_was_sound(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    """The learning rate rises without a limit, so that the end is far worse than the beginning."""
    wild = {
        "per_device_train_batch_size": 32,
        "learning_rate": 0.05,
        "warmup_steps": 30,
        "max_steps": 30,
        "max_grad_norm": 0.0,
    }
    notes: list[str] = []
    made = train(
        base=base,
        axis=axis,
        pairs=pairs,
        settings=replace(settings, values={**settings.values, **wild}),
        seed=0,
        keep_anyway=True,
        note=notes.append,
    )
    stop = made.positive.stop
    assert stop is not None
    assert 0 < stop.kept < stop.step < 30
    assert len(made.positive.curve) <= stop.step
    assert made.positive.report.chosen_change_per_token > -1
    assert any(f"The positive pole was stopped: {stop}." == note for note in notes)


def test_scores_of_the_reference_are_taken_by_position(
    tokens: tuple[TokenPair, ...], scorer: References
) -> None:
    reference = answer_log_probs(worded.llama(), tokens)
    shifted = PairLogProbs(
        reference.chosen + 20,
        reference.rejected,
        reference.chosen_tokens,
        reference.rejected_tokens,
    )
    found = PoleChecks(worded.llama(), tokens, shifted, interval=1, scorer=scorer)
    with pytest.raises(GateError, match="the chosen answers lost"):
        step(found, 1)
