from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Llama4ForCausalLM,
    Llama4TextConfig,
    PhimoeConfig,
    PhimoeForCausalLM,
    PrinterCallback,
    TrainerCallback,
)
from trl.trainer.dpo_trainer import DPOTrainer

import worded
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.errors import TrainingError
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.training.callbacks import CurvePoint
from prefreg.training.settings import Settings, dpo_config, resolve_settings
from prefreg.training.trainer import (
    PairTrainer,
    choose_shortcuts,
    pair_dataset,
    sorted_parts,
    train_pole,
    trl_parts,
)

TOKENIZER = worded.tokenizer()
MIXTURE: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 2,
}


def tokens(count: int = 24) -> tuple[TokenPair, ...]:
    return tokenise_pairs(worded.pairs(count), TOKENIZER, max_length=48).pairs


def train(
    model: Any, settings: Settings, *, reference: PairLogProbs | None = None, seed: int = 0
) -> list[CurvePoint]:
    pairs = tokens()
    reference = reference or answer_log_probs(model, pairs)
    return train_pole(
        model, TOKENIZER, pairs, reference, settings=settings, max_length=48, seed=seed
    )


def test_the_first_loss_is_log_two_and_bogus_references_change_it(settings: Settings) -> None:
    pairs = tokens()
    reference = answer_log_probs(worded.llama(), pairs)
    assert train(worded.llama(), settings)[0].loss == pytest.approx(0.693147, abs=1e-5)
    bogus = PairLogProbs(
        reference.chosen - 20,
        reference.rejected,
        reference.chosen_tokens,
        reference.rejected_tokens,
    )
    # A policy 20 nats above the reference has a reward margin of 2: -log sigmoid(2).
    assert train(worded.llama(), settings, reference=bogus)[0].loss == pytest.approx(
        0.126928, abs=1e-4
    )


# trl 1.16 asks for it under this older name wherever the reference runs within the loop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_losses_are_those_of_plain_trl(settings: Settings, tmp_path: Path) -> None:
    """TRL tokenises by itself here and runs its own reference model within the loop."""
    rows = [
        {
            "prompt": [turn._asdict() for turn in pair.prompt],  # type: ignore[union-attr]
            "chosen": [turn._asdict() for turn in pair.chosen],  # type: ignore[union-attr]
            "rejected": [turn._asdict() for turn in pair.rejected],  # type: ignore[union-attr]
        }
        for pair in worded.pairs(24)
    ]
    args = dpo_config(settings, output_dir=str(tmp_path / "out"), seed=0, max_length=48)
    args.precompute_ref_log_probs = False
    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    plain = DPOTrainer(
        model=worded.llama(),
        ref_model=worded.llama(),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=worded.tokenizer(),
        callbacks=[Losses()],
    )
    plain.remove_callback(PrinterCallback)
    plain.train()
    ours = [point.loss for point in train(worded.llama(), settings)]
    assert len(ours) == len(losses) == 6
    assert ours == pytest.approx(losses, abs=1e-4)
    assert ours[-1] < 0.6


def test_the_order_of_pairs_follows_the_seed(settings: Settings, tmp_path: Path) -> None:
    """Accelerate's sampler is seeded by a constant unless told otherwise."""

    def order(seed: int) -> list[list[int]]:
        pairs = tokens()
        model = worded.llama()
        made = PairTrainer(
            model=model,
            args=dpo_config(settings, output_dir=str(tmp_path), seed=seed, max_length=48),
            train_dataset=pair_dataset(pairs, answer_log_probs(model, pairs)),
            processing_class=worded.tokenizer(),
        )
        return [batch["input_ids"].sum(1).tolist() for batch in made.get_train_dataloader()]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_nothing_is_written_or_printed(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    temporary, here = tmp_path / "temporary", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(here)
    train(worded.llama(), settings)
    assert not list(temporary.iterdir())
    assert not list(here.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_interrupted_run_leaves_nothing(
    error: type[BaseException],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def stop(step: int, total: int, loss: float | None) -> None:
        raise error

    model, pairs = worded.llama(), tokens()
    expected = TrainingError if error is torch.OutOfMemoryError else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        train_pole(
            model,
            TOKENIZER,
            pairs,
            answer_log_probs(model, pairs),
            settings=settings,
            max_length=48,
            seed=0,
            progress=stop,
        )
    assert not list(tmp_path.iterdir())
    if expected is TrainingError:
        assert "lower per_device_train_batch_size" in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run(settings: Settings) -> None:
    model, pairs = worded.llama(), tokens()
    reference = answer_log_probs(model, pairs)
    reference.chosen[:] = float("nan")
    with pytest.raises(TrainingError, match="The loss is nan at step 1 of 6: lower learning_rate"):
        train(model, settings, reference=reference)


def test_what_trl_refuses_only_in_training_is_explained() -> None:
    settings = resolve_settings(assignments=["loss_type=nonsense", "max_steps=1"])
    with pytest.raises(TrainingError, match=r"trl cannot train .* Unknown loss type: nonsense"):
        train(worded.llama(), settings)


def test_checkpointing_changes_no_loss(settings: Settings) -> None:
    checkpointed = Settings(
        {**settings.values, "gradient_checkpointing": True}, frozenset({"gradient_checkpointing"})
    )
    plain = [point.loss for point in train(worded.llama(), settings)]
    assert [point.loss for point in train(worded.llama(), checkpointed)] == pytest.approx(
        plain, abs=1e-6
    )


def test_parts_worked_by_hand() -> None:
    """Nine pairs, four at a time: trl takes 4, 4 and 1, whose one pair weighs a third."""
    lengths = [500, 20, 30, 480, 25, 490, 10, 11, 300]
    assert list(sorted_parts(lengths, 4, tokens=1500)) == [
        ([0, 5, 3], 0.25),
        ([2, 4, 1, 7, 6], pytest.approx(5 / 12)),
        ([8], pytest.approx(1 / 3)),
    ]
    assert trl_parts(9, 4) == [
        (range(4), 1 / 3),
        (range(4, 8), 1 / 3),
        (range(8, 9), 1 / 3),
    ]


@given(st.lists(st.integers(2, 2000), min_size=1, max_size=40), st.integers(1, 9))
def test_every_pair_keeps_the_weight_that_it_has_in_trl(lengths: list[int], size: int) -> None:
    def weights(parts: list[tuple[list[int], float]]) -> dict[int, Fraction]:
        return {
            pair: Fraction(weight / len(part)).limit_denominator(10_000)
            for part, weight in parts
            for pair in part
        }

    ours = list(sorted_parts(lengths, size, tokens=4000))
    plain = [(list(part), weight) for part, weight in trl_parts(len(lengths), size)]
    assert weights(ours) == weights(plain)
    assert sum(len(part) for part, _ in ours) == len(lengths)
    assert sum(weight for _, weight in ours) == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (PhimoeForCausalLM(PhimoeConfig(**MIXTURE)), "Train without it: router_aux_loss_coef=0"),
        (Llama4ForCausalLM(Llama4TextConfig(**MIXTURE)), "names no body of its own"),
    ],
    ids=["experts that trl cannot count", "a body that trl cannot find"],
)
def test_what_trl_cannot_train_is_refused_before(model: Any, told: str, settings: Settings) -> None:
    config = dpo_config(settings, output_dir="unused", seed=0, max_length=48)
    with pytest.raises(TrainingError, match=told):
        choose_shortcuts(model, tokens(2), config)
