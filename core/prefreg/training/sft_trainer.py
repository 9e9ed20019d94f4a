"""A thin adapter over TRL's SFTTrainer, with its settings: our tokens, no files, no chatter."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from prefreg.data.rendering import padding_id
from prefreg.data.tokens import TokenAnswer
from prefreg.files import work_folder
from prefreg.progress import Steps
from prefreg.training.callbacks import CurveRecorder, LossPoint
from prefreg.training.settings import (
    DPO,
    FIXED,
    HELDOUT,
    KEPT,
    ORDER,
    RECORD,
    SHARED,
    TOKENS,
    Family,
    Settings,
    own_arguments,
)
from prefreg.training.trainer import explained

_IGNORED = -100
_SCORED_TOKENS = 1 << 13
"""Tokens in a batch that is scored: longer answers come fewer at a time."""


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[TokenAnswer],
    *,
    settings: Settings,
    max_length: int,
    seed: int,
    progress: Steps | None = None,
) -> list[LossPoint]:
    """Train `model` in place to give the answers."""
    whole = settings.values.get("completion_only_loss") is False
    recorder = CurveRecorder(LossPoint.of, progress)
    with work_folder() as folder, explained():
        trainer = SFTTrainer(
            model=model,
            args=sft_config(settings, output_dir=str(folder), seed=seed, max_length=max_length),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=padding_id(tokenizer)),
            train_dataset=_dataset(answers, whole=whole),
            processing_class=tokenizer,
            callbacks=[recorder],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return recorder.curve


def sft_config(settings: Settings, *, output_dir: str, seed: int, max_length: int) -> SFTConfig:
    """Make TRL's configuration of the user's settings and prefreg's own."""
    values = own_arguments(settings, output_dir=output_dir, seed=seed, max_length=max_length)
    # The labels say what is learnt; the tokens are ours.
    return SFTConfig(**values, dataset_kwargs={"skip_prepare_dataset": True})


_FROM_SEED = "the order of the examples follows from --seed"
_ROWS = "prefreg reads the rows itself"

# Where the reasons of the pair's training do not hold, those of this one stand instead.
_REASONS = {
    HELDOUT: "held-out answers are scored before and after training",
    KEPT: "the model appears in the folder of -o, whole or not at all",
    ORDER: _FROM_SEED,
    RECORD: "prefreg records every step in prefreg.json, and shows progress unless -q",
}

_OWN: Mapping[str, str] = {
    **{
        name: _REASONS.get(reason, reason)
        for name, reason in DPO.own.items()
        if reason not in (SHARED, FIXED)
    },
    "do_train": "prefreg sft trains",
    "label_smoothing_factor": "trl's loss ignores it",
    "packing": TOKENS,
    "packing_strategy": TOKENS,
    "eos_token": TOKENS,
    "dataset_text_field": _ROWS,
    "dataset_kwargs": _ROWS,
    "shuffle_dataset": _FROM_SEED,
    "chat_template_path": "--chat-template names one, and prefreg.json records it",
    "assistant_only_loss": "each answer is an example of its own; see completion_only_loss",
}
_OWN_PREFIXES = {name: _REASONS.get(reason, reason) for name, reason in DPO.own_prefixes.items()}

_ALIKE: Mapping[str, Any] = {
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "max_length": 512,
    "completion_only_loss": True,
}
_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The paper's table: 4 examples a device × 8 accumulated × 8 devices are 256 a step.
        "paper": {
            "num_train_epochs": 3.0,
            "max_steps": -1,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 64,
            "learning_rate": 2e-5,
            "warmup_steps": 0.03,
            "weight_decay": 0.0,
            **_ALIKE,
        },
        # A first look: fewer and larger steps, 1,600 examples at most.
        "quick": {
            "num_train_epochs": 1.0,
            "max_steps": 100,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-4,
            "warmup_steps": 0.1,
            "weight_decay": 0.0,
            **_ALIKE,
        },
        # For weights that know nothing, or for models of a few million parameters.
        "scratch": {
            "num_train_epochs": 1.0,
            "max_steps": -1,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "warmup_steps": 0.05,
            "weight_decay": 0.1,
            **_ALIKE,
        },
    }
)

SFT = Family(SFTConfig, _PRESETS, _OWN, _OWN_PREFIXES, sft_config)


@torch.no_grad()
def answer_loss(
    model: PreTrainedModel,
    answers: Sequence[TokenAnswer],
    *,
    padding: int,
    progress: Steps | None = None,
) -> float:
    """Return the mean loss of the answers' tokens, in nats, each token weighing the same."""
    collate = DataCollatorForLanguageModeling(pad_token_id=padding)
    rows = _dataset(sorted(answers, key=len, reverse=True), whole=False)
    total, tokens, start = 0.0, 0, 0
    training = model.training
    model.train(False)
    try:
        while start < len(rows):
            size = max(1, _SCORED_TOKENS // len(rows[start]["input_ids"]))
            batch = collate([rows[i] for i in range(start, min(start + size, len(rows)))])
            learnt = int((batch["labels"][:, 1:] != _IGNORED).sum())
            loss = model(**{name: part.to(model.device) for name, part in batch.items()}).loss
            total, tokens, start = total + float(loss) * learnt, tokens + learnt, start + size
            if progress:
                progress(min(start, len(rows)), len(rows))
    finally:
        model.train(training)
    return total / tokens


def _dataset(answers: Sequence[TokenAnswer], *, whole: bool) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [[*one.prompt_ids, *one.answer_ids] for one in answers],
            "labels": [
                [*(one.prompt_ids if whole else [_IGNORED] * len(one.prompt_ids)), *one.answer_ids]
                for one in answers
            ],
        }
    )
