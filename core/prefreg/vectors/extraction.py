"""Taking φ = θ₊ − θ₋ out of two trained poles."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.errors import VectorError
from prefreg.vectors.dense import blocks
from prefreg.vectors.factors import FactorMap, dot, norms, subtract
from prefreg.vectors.lowrank import write_low_rank
from prefreg.vectors.pole_tensors import (
    CheckpointTensors,
    TensorSource,
    require_same_names,
    require_shapes_of,
)
from prefreg.vectors.tensors import TORCH_DTYPES, count_nonzero, is_finite, to_bytes
from prefreg.vectors.writing import dense_writer

_UNMOVED = (
    "The model did not move: both poles hold the same weights. Raise the learning rate or the "
    "number of steps, or check that two different models were given."
)
# By factors, equal poles cancel only up to the rounding of their inner products.
_CANCELLED = 1e-7


@dataclass(frozen=True, slots=True)
class Extraction:
    """A vector that was written, and what was measured on the way in float64."""

    sha256: str
    size: int
    norm: float
    norms: dict[str, float]
    """By tensor."""
    zeros: float | None
    """The share of φ that is exactly zero, large when the poles were saved in low precision;
    not counted in products of factors."""
    positive_norm: float | None
    """‖θ₊ − θ_base‖, where the base was given."""
    negative_norm: float | None
    cosine_poles: float | None
    """cos(θ₊ − θ_base, θ₋ − θ_base); absent when a pole is the base itself."""
    storage_error: float | None
    """‖stored − φ‖ / ‖φ‖, where the storage dtype is not F32."""
    storage_cosine: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what a version's record keeps of the measurements."""
        return {
            "norm": self.norm,
            "positive_norm": self.positive_norm,
            "negative_norm": self.negative_norm,
            "cosine_poles": self.cosine_poles,
            "zeros": self.zeros,
            "storage_error": self.storage_error,
            "norms": dict(self.norms),
        }


@dataclass(slots=True)
class _Sums:
    norms: dict[str, float] = field(default_factory=dict)
    elements: int = 0
    zeros: int = 0
    positive: float = 0.0
    negative: float = 0.0
    poles: float = 0.0
    stored: float = 0.0
    error: float = 0.0
    overlap: float = 0.0


def extract(
    *,
    positive: TensorSource,
    negative: TensorSource,
    reference: TensorSource | None,
    destination: Path,
    dtype: str = "F32",
) -> Extraction:
    """Subtract the poles in float32, a block at a time, and store the difference as a vector.

    All names are the base checkpoint's names on disk. The reference is the base; it may hold
    more tensors than the poles, and serves for measurements only.
    """
    require_same_names(positive, negative, what=("the positive pole", "the negative pole"))
    if reference is not None:
        require_shapes_of(positive, reference, what=("The poles", "the base"))
    sums = _Sums()
    shapes = {name: positive.shape(name) for name in positive.names}
    with dense_writer(destination, shapes, dtype) as writer:
        for spec in writer.specs:
            square = 0.0
            for start, stop in blocks(spec.elements):
                plus = positive.block(spec.name, start, stop)
                minus = negative.block(spec.name, start, stop)
                phi = plus - minus
                stored = phi.to(TORCH_DTYPES[dtype])
                _require_finite(spec.name, plus, minus, stored)
                writer.write(to_bytes(stored))
                square += _dot(phi, phi)
                _measure(sums, phi, stored)
                if reference is not None:
                    _measure_poles(sums, plus, minus, reference.block(spec.name, start, stop))
            sums.norms[spec.name] = math.sqrt(square)
        if not any(sums.norms.values()):
            raise VectorError(_UNMOVED)
        return _summarise(sums, writer.finish(), writer.size, reference is not None, dtype)


def extract_folders(
    *,
    positive: Checkpoint,
    negative: Checkpoint,
    base: Checkpoint,
    destination: Path,
    dtype: str = "F32",
) -> Extraction:
    """Take the vector out of two saved models that were trained from `base`."""
    return extract(
        positive=CheckpointTensors.of_pole(positive, base),
        negative=CheckpointTensors.of_pole(negative, base),
        reference=CheckpointTensors(base),
        destination=destination,
        dtype=dtype,
    )


def extract_factors(*, positive: FactorMap, negative: FactorMap, destination: Path) -> Extraction:
    """Store the difference of two adapters on one base, exactly, and measure it by its factors."""
    phi = subtract(positive, negative)
    by_weight = norms(phi)
    norm = math.hypot(*by_weight.values())
    lengths = [math.hypot(*norms(pole).values()) for pole in (positive, negative)]
    if norm <= _CANCELLED * max(lengths):
        raise VectorError(_UNMOVED)
    written = write_low_rank(phi, destination)
    product = math.prod(lengths)
    return Extraction(
        sha256=written.sha256,
        size=written.size,
        norm=norm,
        norms=by_weight,
        zeros=None,
        positive_norm=lengths[0],
        negative_norm=lengths[1],
        cosine_poles=dot(positive, negative) / product if product else None,
        storage_error=None,
        storage_cosine=None,
    )


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    # The product of two float32 numbers is exact in float64.
    return float(torch.sum(one.double() * other.double()))


def _require_finite(
    name: str, plus: torch.Tensor, minus: torch.Tensor, stored: torch.Tensor
) -> None:
    if is_finite(stored):
        return
    for pole, block in (("positive", plus), ("negative", minus)):
        if not is_finite(block):
            raise VectorError(
                f"{name!r} of the {pole} pole holds NaN or infinity: its training diverged. "
                "Lower the learning rate."
            )
    raise VectorError(f"The difference of the poles overflows in {name!r}. Train them again.")


def _measure(sums: _Sums, phi: torch.Tensor, stored: torch.Tensor) -> None:
    sums.elements += phi.numel()
    sums.zeros += phi.numel() - count_nonzero(phi)
    if stored.dtype != torch.float32:
        kept = stored.to(torch.float32)
        sums.stored += _dot(kept, kept)
        sums.error += _dot(kept - phi, kept - phi)
        sums.overlap += _dot(kept, phi)


def _measure_poles(
    sums: _Sums, plus: torch.Tensor, minus: torch.Tensor, base: torch.Tensor
) -> None:
    up, down = plus.double() - base.double(), minus.double() - base.double()
    sums.positive += _dot(up, up)
    sums.negative += _dot(down, down)
    sums.poles += _dot(up, down)


def _summarise(sums: _Sums, sha256: str, size: int, based: bool, dtype: str) -> Extraction:
    norm = math.hypot(*sums.norms.values())
    poles = math.sqrt(sums.positive) * math.sqrt(sums.negative)
    stored = math.sqrt(sums.stored) * norm
    return Extraction(
        sha256=sha256,
        size=size,
        norm=norm,
        norms=sums.norms,
        zeros=sums.zeros / sums.elements,
        positive_norm=math.sqrt(sums.positive) if based else None,
        negative_norm=math.sqrt(sums.negative) if based else None,
        cosine_poles=sums.poles / poles if poles else None,
        storage_error=math.sqrt(sums.error) / norm if dtype != "F32" else None,
        storage_cosine=sums.overlap / stored if stored else None,
    )
