"""Reading a PEFT adapter into factors, strictly: every tensor must be understood."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor, listed
from prefreg.checkpoints.names import TRAINABLE_DTYPES
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.errors import VectorError
from prefreg.vectors.adapters.config import AdapterConfig
from prefreg.vectors.adapters.layers import LinearLayer, linear_layers
from prefreg.vectors.factors import Factors
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
    """Read an adapter that was trained on `base`.

    Raises:
        VectorError: It is missing or damaged, does not fit the base, or is more than two factors
            for each layer.
        BaseModelError: The layers of the base cannot be told.
    """
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
