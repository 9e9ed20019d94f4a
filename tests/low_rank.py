"""Registries with random vectors, which a test of dials needs no training for."""

from collections.abc import Sequence
from pathlib import Path

import torch

from prefreg.checkpoints import BaseModel
from prefreg.checkpoints.tensor_names import weight_shapes
from prefreg.composition.resolve import identify
from prefreg.registry import Access, VersionRecord
from prefreg.registry.records import NewVersion
from prefreg.vectors.dense import write_dense
from prefreg.vectors.lowrank import Factors, write_low_rank
from prefreg.vectors.tensors import MemoryTensors


def _noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def add_low_rank(
    registry: Path,
    base: BaseModel,
    axis: str,
    *,
    seed: int,
    rank: int = 16,
    size: float = 0.3,
    only: Sequence[str] = ("proj", "c_attn", "c_proj", "c_fc"),
) -> VersionRecord:
    """Store random factors of all matrices with one of `only` in their names.

    Each product has `size` times the norm of an entry of a weight of its kind at initialisation.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, shape in weight_shapes(base.checkpoint).items():
        if len(shape) == 2 and any(each in name for each in only):
            b, a = _noise(generator, shape[0], rank), _noise(generator, rank, shape[1])
            factors[name] = Factors(b, a * size / (rank * shape[1]) ** 0.5)
    file = registry.with_suffix(f".{axis}.safetensors")
    write_low_rank(factors, file)
    return _add(registry, base, axis, "low-rank", file)


def add_dense(
    registry: Path, base: BaseModel, axis: str, *, seed: int, size: float = 0.02
) -> VersionRecord:
    """Store noise for all weights."""
    generator = torch.Generator().manual_seed(seed)
    shapes = weight_shapes(base.checkpoint)
    noise = {name: _noise(generator, *shapes[name]) * size for name in sorted(shapes)}
    file = registry.with_suffix(f".{axis}.safetensors")
    write_dense(MemoryTensors(noise), file)
    return _add(registry, base, axis, "dense", file)


def _add(registry: Path, base: BaseModel, axis: str, kind: str, file: Path) -> VersionRecord:
    new = NewVersion(axis=axis, axis_aliases=(), kind=kind, dtype="F32", base=identify(base))
    with Access(registry).writing() as store:
        added = store.add(new, file)
    file.unlink()
    return added
