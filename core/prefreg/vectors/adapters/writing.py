"""Factors in the names and the configuration of a PEFT adapter that scales nothing."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from prefreg.vectors.adapters.layers import LinearLayer, by_weight
from prefreg.vectors.adapters.reading import PREFIX
from prefreg.vectors.factors import FactorMap

METADATA: Mapping[str, str] = {"format": "pt"}
"""What PEFT writes into the metadata of its weight files."""


def adapter_tensors(
    factors: FactorMap, layers: Mapping[str, LinearLayer]
) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's weight file; `layers` are those of the base."""
    known = by_weight(layers)
    tensors = {}
    for weight, part in factors.items():
        layer = known[weight]
        turned = part.transposed() if layer.transposed else part
        tensors[f"{PREFIX}{layer.module}.lora_A.weight"] = turned.a.contiguous()
        tensors[f"{PREFIX}{layer.module}.lora_B.weight"] = turned.b.contiguous()
    return tensors


def adapter_config(
    factors: FactorMap, layers: Mapping[str, LinearLayer], *, base: str, revision: str | None
) -> bytes:
    """Return the adapter's configuration: alpha is the rank in every module, so the scaling is 1.

    Where ranks differ, `r` is the largest, which is what servers reserve room for.
    """
    known = by_weight(layers)
    ranks = {known[weight].module: part.rank for weight, part in factors.items()}
    largest = max(ranks.values())
    smaller = {module: rank for module, rank in sorted(ranks.items()) if rank != largest}
    config: dict[str, Any] = {
        "alpha_pattern": smaller,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": any(known[weight].transposed for weight in factors),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": largest,
        "rank_pattern": smaller,
        "revision": revision,
        "target_modules": _targets(set(ranks), set(layers)),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _targets(modules: set[str], known: set[str]) -> list[str]:
    """Name the modules as people do, by their last part, where that selects the very same ones."""
    short = {module.rpartition(".")[2] for module in modules}
    selected = {module for module in known if module.rpartition(".")[2] in short}
    return sorted(short if selected == modules else modules)
