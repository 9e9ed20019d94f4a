"""A registry of random vectors on the chat model: three of low rank, and two dense ones."""

import math
from pathlib import Path

import torch

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.resolve import identify
from prefreg.files import work_folder
from prefreg.registry import NewVersion
from prefreg.registry.store import Store
from prefreg.vectors.dense import write_dense
from prefreg.vectors.lora_layers import LoraLayers
from prefreg.vectors.lowrank import Factors, write_low_rank
from prefreg.vectors.tensors import MemoryTensors, read_tensor

BASE = "smollm2"
AXES = ("clarity", "warmth", "brevity")
DENSE = "depth"
HUGE = "loudness"
"""A dense axis that overflows at a coefficient of 1e37."""
RANK = 16
LENGTH = 0.06
"""‖φ‖ of a layer, in lengths of its weight."""


def random_factors(base: BaseModel, seed: int) -> dict[str, Factors]:
    """Make factors for every linear layer of a base, that change what it says but not the talk."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in LoraLayers(base.checkpoint).text.values():
        if layer.output:
            continue
        rows, columns = layer.shape
        weight = read_tensor(base.checkpoint.tensors[layer.weight]).float()
        b = torch.randn(rows, RANK, generator=generator)
        a = torch.randn(RANK, columns, generator=generator)
        scale = LENGTH * float(weight.norm()) / math.sqrt(RANK * rows * columns)
        found[layer.weight] = Factors(b, a * scale)
    return found


def random_dense(base: BaseModel, seed: int) -> dict[str, torch.Tensor]:
    """Make differences for the embeddings, which the head shares, the norms and the last layer."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, stored in base.checkpoint.tensors.items():
        if name.endswith(("embed_tokens.weight", "norm.weight")) or ".layers.29." in name:
            weight = read_tensor(stored).float()
            noise = torch.randn(weight.shape, generator=generator)
            found[name] = noise * (LENGTH * float(weight.norm()) / math.sqrt(weight.numel()))
    return found


def add_version(registry: Path, axis: str, seed: int) -> None:
    """Add a random low-rank vector; of equal seeds they are equal."""
    base = resolve_base(BASE)
    with Store.open(registry, write=True) as store, work_folder() as folder:
        write_low_rank(random_factors(base, seed), folder / "blob")
        store.add(NewVersion(axis, (), "low-rank", "F32", identify(base)), folder / "blob")


def make_registry(path: Path) -> Path:
    """Write the registry."""
    for seed, axis in enumerate(AXES):
        add_version(path, axis, seed)
    base = resolve_base(BASE)
    with Store.open(path, write=True) as store, work_folder() as folder:
        norm = "model.norm.weight"
        huge = torch.full(base.checkpoint.tensors[norm].spec.shape, 100.0)
        for axis, phi in ((DENSE, random_dense(base, 9)), (HUGE, {norm: huge})):
            write_dense(MemoryTensors(phi), folder / axis)
            store.add(NewVersion(axis, (), "dense", "F32", identify(base)), folder / axis)
    return path
