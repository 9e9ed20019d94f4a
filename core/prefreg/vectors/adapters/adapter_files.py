"""Reading a PEFT adapter into factors, strictly: every tensor must be understood."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor, listed
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.checkpoints.tensor_names import TRAINABLE_DTYPES
from prefreg.errors import VectorError
from prefreg.vectors.adapters.adapter_config import (
    AdapterConfig,
    LinearLayer,
    by_weight,
    linear_layers,
)
from prefreg.vectors.factors import FactorMap, Factors
from prefreg.vectors.tensors import read_tensor

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_FACTOR = re.compile(re.escape(PREFIX) + r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the names of its base."""

    config: AdapterConfig
    factors: dict[str, Factors]
    """By the names of the weights on disk, with the scaling in `a`."""


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Read an adapter that was trained on `base`."""
    config = AdapterConfig.read(folder)
    layers = linear_layers(base)
    found = _sides(folder)
    _require_fit(folder, config, found, layers)
    factors = {}
    for module, sides in sorted(found.items()):
        part = Factors(read_tensor(sides["B"]).float(), read_tensor(sides["A"]).float())
        part = part.scaled(config.scaling_of(module))
        layer = layers[module]
        factors[layer.weight] = part.transposed() if layer.transposed else part
    return Adapter(config, factors)


def _sides(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """Return the stored factors by module and side."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = " (an adapter_model.bin is no substitute)" * any(folder.glob("*.bin"))
        raise VectorError(f"{folder} has no {WEIGHTS_FILE}{pickled}. Save it as safetensors.")
    found: dict[str, dict[str, StoredTensor]] = {}
    unknown = []
    for name, spec in read_header(path, VectorError).tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or spec.dtype not in TRAINABLE_DTYPES:
            unknown.append(name)
        else:
            found.setdefault(match["module"], {})[match["side"]] = StoredTensor(path, spec)
    if unknown:
        raise VectorError(
            f"{path} holds {listed(unknown)}, which are no float factors of linear layers. "
            "Train LoRA on linear layers only, not on embeddings or whole modules."
        )
    if not found:
        raise VectorError(f"{path} holds no factors. Save the adapter again.")
    return found


def _require_fit(
    folder: Path,
    config: AdapterConfig,
    found: Mapping[str, Mapping[str, StoredTensor]],
    layers: Mapping[str, LinearLayer],
) -> None:
    halves = [module for module, sides in found.items() if len(sides) != 2]
    missing = (config.expected(layers.values()) - found.keys()) | set(halves)
    unexpected = found.keys() - layers.keys()
    mismatched = [
        f"{module} ({shapes})"
        for module, sides in found.items()
        if module in layers and module not in halves
        if (shapes := _mismatch(sides, layers[module], config.rank_of(module)))
    ]
    problems = [
        f"{what} {listed(modules)}"
        for what, modules in (
            ("it lacks factors of", missing),
            ("the base has no linear layer of its own called", unexpected),
            ("of other shapes are", mismatched),
        )
        if modules
    ]
    if problems:
        raise VectorError(
            f"{folder} does not fit its base or its configuration: {'; '.join(problems)}. "
            "Name the base that it was trained on."
        )


def _mismatch(sides: Mapping[str, StoredTensor], layer: LinearLayer, rank: int) -> str | None:
    outputs, inputs = layer.shape[::-1] if layer.transposed else layer.shape
    a, b = sides["A"].spec.shape, sides["B"].spec.shape
    if (a, b) == ((rank, inputs), (outputs, rank)):
        return None
    return f"B {list(b)}, A {list(a)} for {[outputs, rank]}, {[rank, inputs]}"


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
