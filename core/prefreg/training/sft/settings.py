"""Which of SFTConfig's settings are prefreg's own, and where the others begin."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from prefreg.training import keys
from prefreg.training.settings import Family, Settings

_ANSWERS = "held-out answers are scored before and after training"
_FOLDER = "the model appears in the folder of -o, whole or not at all"
_TEMPLATE = "--chat-template names one, and prefreg.json records it"
_ROWS = "prefreg reads the rows itself"

# Where the reasons of the pair's training do not hold, those of this one stand instead.
_REASONS = {
    keys.HELDOUT: _ANSWERS,
    keys.KEPT: _FOLDER,
    keys.ORDER: "the order of the examples follows from --seed",
    keys.RECORD: "prefreg records every step in prefreg.json, and shows progress unless -q",
}
_DPO_ONLY = {name for name, reason in keys.OWN.items() if reason in (keys.SHARED, keys.FIXED)}

OWN: Mapping[str, str] = {
    **{
        name: _REASONS.get(reason, reason)
        for name, reason in keys.OWN.items()
        if name not in _DPO_ONLY
    },
    "do_train": "prefreg sft trains",
    "label_smoothing_factor": "trl's loss ignores it",
    "packing": keys.TOKENS,
    "packing_strategy": keys.TOKENS,
    "eos_token": keys.TOKENS,
    "dataset_text_field": _ROWS,
    "dataset_kwargs": _ROWS,
    "shuffle_dataset": "the order of the examples follows from --seed",
    "chat_template_path": _TEMPLATE,
    "assistant_only_loss": "each answer is an example of its own; see completion_only_loss",
}
OWN_PREFIXES = {name: _REASONS.get(reason, reason) for name, reason in keys.OWN_PREFIXES.items()}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The paper's table: 4 examples a device × 8 accumulated × 8 devices are 256 a step.
        "paper": {
            "num_train_epochs": 3.0,
            "max_steps": -1,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 64,
            "learning_rate": 2e-5,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "completion_only_loss": True,
        },
        # A first look: fewer and larger steps, 1,600 examples at most.
        "quick": {
            "num_train_epochs": 1.0,
            "max_steps": 100,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "completion_only_loss": True,
        },
        # For weights that know nothing, or for models of a few million parameters.
        "scratch": {
            "num_train_epochs": 1.0,
            "max_steps": -1,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "weight_decay": 0.1,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "completion_only_loss": True,
        },
    }
)


def _refusal(name: str) -> str | None:
    return keys.refusal(name, OWN, OWN_PREFIXES)


def _load() -> type:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig


def _attempt(settings: Settings) -> object:
    from prefreg.training.sft.trainer import sft_config

    return sft_config(settings, output_dir="unused", seed=0, max_length=2)


SFT = Family("SFTConfig", PRESETS, "paper", _refusal, _load, _attempt)
