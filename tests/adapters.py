"""Tiny PEFT adapters with factors that are not zero, as after training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

peft = pytest.importorskip("peft")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_adapter(model: PreTrainedModel, folder: Path, *, seed: int, **settings: Any) -> Path:
    """Put LoRA on a fresh model, fill both factors with noise, and save the adapter."""
    values = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**(values | settings)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Return the model's float32 logits for a fixed prompt."""
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(3, 27)[None]).logits
    return result


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return ‖one − other‖ / ‖other‖."""
    return float((one.double() - other.double()).norm() / other.double().norm())
