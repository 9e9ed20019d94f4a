"""What the shortcuts compute against plain TRL: losses and, by one step of SGD, gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import MixtralConfig, MixtralForCausalLM, PrinterCallback, TrainerCallback
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

import worded
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.models.log_probs import answer_log_probs
from prefreg.training.settings import Settings, dpo_config, resolve_settings
from prefreg.training.trainer import (
    PAIR_BY_PAIR,
    PairTrainer,
    PartCollator,
    Shortcuts,
    choose_shortcuts,
    pair_dataset,
    train_pole,
)

# trl 1.16 speaks of it under this older name wherever the reference runs within the loop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated")

EXACT = Shortcuts()
NONE = Shortcuts("off", "off")
LORA = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_rslora=True)
COUNT = 22
"""Two steps of 8 pairs and one of 6, which trl takes as 4 and 2."""

Weights = dict[str, torch.Tensor]


def tokens() -> tuple[TokenPair, ...]:
    return tokenise_pairs(worded.pairs(COUNT), worded.tokenizer(), max_length=48).pairs


def settings(*assignments: str) -> Settings:
    """Take steps of plain gradient descent, which show the gradients."""
    default = {
        "num_train_epochs": 1.0,
        "max_steps": -1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "optim": "sgd",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_length": 48,
    }
    return resolve_settings(default=default, assignments=assignments)


def ours(
    values: Settings, shortcuts: Shortcuts = EXACT, lora: LoraConfig | None = None
) -> tuple[list[float], Weights]:
    """Train with the reference of another model, so that no figure is trivial."""
    model, pairs = worded.llama(), tokens()
    curve = train_pole(
        model,
        worded.tokenizer(),
        pairs,
        answer_log_probs(worded.llama(seed=1), pairs, tail=values.values.get("ld_alpha", 1.0)),
        settings=values,
        max_length=48,
        seed=0,
        lora=lora,
        shortcuts=shortcuts,
    )
    return [point.loss for point in curve], dict(model.named_parameters())


class Plain(DPOTrainer):
    """TRL on data that is tokenised already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class Reused(Plain):
    """TRL on data that has the reference's log-probabilities already."""

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def plain(values: Settings, folder: Path, lora: LoraConfig | None = None) -> Any:
    """Train by trl alone: its collator, its loop, its reference model."""
    args = dpo_config(values, output_dir=str(folder), seed=0, max_length=48)
    args.precompute_ref_log_probs = False
    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    rows = [
        {
            "prompt_ids": list(pair.prompt_ids),
            "chosen_ids": list(pair.chosen_ids),
            "rejected_ids": list(pair.rejected_ids),
        }
        for pair in tokens()
    ]
    model = worded.llama()
    trainer = Plain(
        model=model,
        ref_model=worded.llama(seed=1),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=worded.tokenizer(),
        peft_config=lora,
        callbacks=[Losses()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return losses, dict(model.named_parameters())


def assert_same(found: tuple[list[float], Weights], expected: tuple[list[float], Weights]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    assert found[1].keys() == expected[1].keys()
    moved = 0.0
    begun = dict(worded.llama().named_parameters())
    for name, weight in found[1].items():
        torch.testing.assert_close(weight, expected[1][name], rtol=0, atol=1e-5)
        if name in begun:
            moved = max(moved, float((weight - begun[name]).detach().abs().max()))
        elif ".lora_B." in name:
            moved = max(moved, float(weight.detach().abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize(
    "shortcuts",
    [EXACT, NONE, Shortcuts("off", None), Shortcuts(None, "off")],
    ids=["both", "none", "parts", "rows"],
)
def test_gradients_are_those_of_trl_with_an_incomplete_last_batch(
    shortcuts: Shortcuts, tmp_path: Path
) -> None:
    assert_same(ours(settings(), shortcuts), plain(settings(), tmp_path))


@pytest.mark.parametrize(
    "assignments",
    [
        ("gradient_accumulation_steps=1", "per_device_train_batch_size=8"),
        ("num_train_epochs=2", "dataloader_drop_last=true"),
        ("activation_checkpointing=true",),
        ("use_weighting=true",),
        ("ld_alpha=0.3",),
        ("optim=adamw_torch", "learning_rate=1e-3", "max_grad_norm=0.1", "weight_decay=0.1"),
    ],
    ids=[
        "unaccumulated",
        "two epochs, dropping",
        "checkpointing",
        "weighted",
        "tails",
        "adam, clipped",
    ],
)
def test_settings_act_as_in_trl(assignments: tuple[str, ...], tmp_path: Path) -> None:
    values = settings(*assignments)
    found, expected = ours(values), plain(values, tmp_path)
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    for name, weight in found[1].items():
        torch.testing.assert_close(weight, expected[1][name], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "assignments",
    [("loss_type=[sigmoid, sft]", "loss_weights=[1.0, 0.5]"), ("loss_type=sft",)],
    ids=["preferring and giving", "giving"],
)
def test_poles_that_raise_what_is_chosen_go_where_those_of_trl_go(
    assignments: tuple[str, ...], tmp_path: Path
) -> None:
    values = settings("optim=adamw_torch", "learning_rate=1e-3", *assignments)
    config = dpo_config(values, output_dir="unused", seed=0, max_length=48)
    shortcuts = choose_shortcuts(worded.llama(), tokens(), config)
    assert shortcuts.shared_prompt is None
    assert shortcuts.chosen_only is (values.values["loss_type"] == ["sft"])
    losses, weights = ours(values, shortcuts)
    expected_losses, expected = plain(values, tmp_path)
    assert losses == pytest.approx(expected_losses, abs=1e-4)
    begun = dict(worded.llama().named_parameters())
    found, wanted = (
        torch.cat([(each[name] - begun[name]).detach().flatten().double() for name in begun])
        for each in (weights, expected)
    )
    assert float(wanted.norm()) > 1e-2
    assert float(torch.cosine_similarity(found, wanted, dim=0)) > 0.9999


@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_an_adapter_gets_the_gradients_of_trl(checkpointing: str, tmp_path: Path) -> None:
    values = settings("learning_rate=1", f"activation_checkpointing={checkpointing}")
    assert_same(ours(values, lora=LORA), plain(values, tmp_path, LORA))


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> tuple[PairTrainer, Plain]:
    """Make both trainers once; a loss is an attribute of theirs."""
    pairs, folder = tokens(), str(tmp_path_factory.mktemp("trainers"))
    reference = answer_log_probs(worded.llama(seed=1), pairs)
    collator = DataCollatorForPreference(pad_token_id=0)
    made = [
        kind(
            model=worded.llama(),
            args=dpo_config(settings(), output_dir=folder, seed=0, max_length=48),
            data_collator=collate,
            train_dataset=pair_dataset(pairs, reference),
            processing_class=worded.tokenizer(),
        )
        for kind, collate in (
            (PairTrainer, PartCollator(collator, size=4, shortcuts=EXACT)),
            (Reused, collator),
        )
    ]
    return made[0], made[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_types": ["sigmoid"], "label_smoothing": 0.2},
        {"loss_types": ["sigmoid"], "f_divergence_type": "js_divergence"},
        {"loss_types": ["sigmoid"], "f_divergence_type": "forward_kl"},
        {"loss_types": ["hinge"]},
        {"loss_types": ["ipo"]},
        {"loss_types": ["exo_pair"], "label_smoothing": 1e-3},
        {"loss_types": ["nca_pair"]},
        {"loss_types": ["robust"], "label_smoothing": 0.1},
        {"loss_types": ["bco_pair"]},
        {"loss_types": ["sppo_hard"]},
        {"loss_types": ["aot"]},
        {"loss_types": ["aot_unpaired"]},
        {"loss_types": ["apo_zero"]},
        {"loss_types": ["apo_down"]},
        {"loss_types": ["discopop"]},
        {"loss_types": ["sft"]},
        {"loss_types": ["sigmoid_norm"]},
        {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ],
    ids=lambda changes: "+".join(changes["loss_types"]),
)
def test_every_loss_of_trl_has_the_same_value_and_gradient(
    changes: dict[str, Any],
    trainers: tuple[PairTrainer, Plain],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One batch of six pairs, which trl takes as 4 and 2."""
    coupled = not set(changes["loss_types"]) <= PAIR_BY_PAIR
    shortcuts = Shortcuts(sorted_parts="coupled" if coupled else None)
    pair, trl = trainers
    examples = [trl.train_dataset[i] for i in range(6)]
    for trainer in trainers:
        for name, value in {"loss_weights": [1.0], **changes}.items():
            monkeypatch.setattr(trainer, name, value)
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = 1
    collator = DataCollatorForPreference(pad_token_id=0)
    found = pair.training_step(pair.model, PartCollator(collator, 4, shortcuts)(examples))
    trl.current_gradient_accumulation_steps = 2
    parts = (collator(examples[:4]), collator(examples[4:]))
    expected = sum(trl.training_step(trl.model, part) for part in parts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(pair.model.parameters(), trl.model.parameters(), strict=True):
        assert ours.grad is not None
        size = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * size)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", "sft", "[sigmoid, sft]"])
def test_batches_of_coupled_pairs_stay_as_they_are(loss: str) -> None:
    config = dpo_config(settings(f"loss_type={loss}"), output_dir="no", seed=0, max_length=48)
    chosen = choose_shortcuts(worded.llama(), tokens(), config).to_json()
    assert chosen["shared_prompt"] == {"on": True}
    assert chosen["sorted_parts"]["on"] is False
    assert "couples the pairs" in chosen["sorted_parts"]["why_not"]


def test_a_router_that_learns_from_the_whole_batch_gets_trl_s_batches() -> None:
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=2,
            router_aux_loss_coef=0.02,
        )
    )
    config = dpo_config(settings(), output_dir="no", seed=0, max_length=48)
    chosen = choose_shortcuts(model, tokens(), config)
    assert "router's loss (coefficient 0.02)" in str(chosen.shared_prompt)
    assert chosen.sorted_parts == chosen.shared_prompt
    off = dpo_config(settings("router_aux_loss_coef=0"), output_dir="no", seed=0, max_length=48)
    assert choose_shortcuts(model, tokens(), off).shared_prompt is None


@pytest.mark.parametrize(
    ("assignment", "words"),
    [("neftune_noise_alpha=5", "noise to every row"), ("torch_compile=true", "compiles the model")],
)
def test_what_acts_on_whole_rows_gets_trl_s_batches(assignment: str, words: str) -> None:
    config = dpo_config(settings(assignment), output_dir="no", seed=0, max_length=48)
    chosen = choose_shortcuts(worded.llama(), tokens(), config)
    assert words in str(chosen.shared_prompt)
    assert words in str(chosen.sorted_parts)


def test_dropout_that_trl_leaves_on_keeps_prompts_apart() -> None:
    model = worded.llama()
    config = dpo_config(settings(), output_dir="no", seed=0, max_length=48)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    model.eval()
    assert "dropout" in str(choose_shortcuts(model, tokens(), config).shared_prompt)
    assert not model.training
