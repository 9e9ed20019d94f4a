"""Taking φ = θ₊ − θ₋ out of two poles, two adapters, or differences that another tool stored."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prefreg.checkpoints.checkpoint import CONFIG_FILE, Checkpoint, StoredTensor
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.checkpoints.tensor_names import is_weight, weight_shapes
from prefreg.errors import VectorError, listed
from prefreg.vectors.compression import measure
from prefreg.vectors.dense import DenseVector, dense_writer, write_dense
from prefreg.vectors.lowrank import FactorMap, dot, norms, subtract, write_low_rank
from prefreg.vectors.stored import blocks
from prefreg.vectors.tensors import (
    TORCH_DTYPES,
    CheckpointTensors,
    TensorSource,
    count_nonzero,
    is_finite,
    require_same_names,
    require_shapes_of,
    to_bytes,
)

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
    zeros: float | None = None
    """The share of φ that is exactly zero, large when the poles were saved in low precision;
    not counted in products of factors."""
    positive_norm: float | None = None
    """‖θ₊ − θ_base‖, where the base was given."""
    negative_norm: float | None = None
    cosine_poles: float | None = None
    """cos(θ₊ − θ_base, θ₋ − θ_base); absent when a pole is the base itself."""
    storage_error: float | None = None
    """‖stored − φ‖ / ‖φ‖, where the storage dtype is not F32."""

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
        positive_norm=lengths[0],
        negative_norm=lengths[1],
        cosine_poles=dot(positive, negative) / product if product else None,
    )


def open_differences(path: Path, base: Checkpoint) -> CheckpointTensors:
    """Open a safetensors file, or all of a folder's, that holds differences from `base`.

    Weights that no file holds are taken as unchanged.
    """
    if (path / CONFIG_FILE).is_file():
        raise VectorError(
            f"{path} holds a whole model, not differences. Import it with --plus and --minus, or "
            "with --plus and --positive-only."
        )
    tensors = _gather(path)
    shapes = weight_shapes(base)
    reshaped = [
        f"{name} {list(tensor.spec.shape)} against {list(shapes[name])}"
        for name, tensor in tensors.items()
        if name in shapes and tensor.spec.shape != shapes[name]
    ]
    problems = [
        f"{what} {listed(names)}"
        for what, names in (
            ("the base has no weight of its own called", tensors.keys() - shapes.keys()),
            ("of other shapes are", reshaped),
            ("no floats are", [name for name, tensor in tensors.items() if not is_weight(tensor)]),
        )
        if names
    ]
    if problems:
        raise VectorError(
            f"{path} does not fit its base: {'; '.join(problems)}. "
            "Name the base that the differences were taken from."
        )
    whole = Checkpoint(path, tensors, (), indexed=False, config={})
    return CheckpointTensors(whole, {name: name for name in tensors})


def store_difference(source: TensorSource, destination: Path, *, dtype: str = "F32") -> Extraction:
    """Store a vector that is already a difference, and measure it."""
    written = write_dense(source, destination, dtype=dtype)
    with DenseVector.open(destination) as stored:
        found = measure(source, stored)
    if not found.norm:
        raise VectorError("The task vector holds nothing but zeros. Check what it was taken from.")
    return Extraction(
        sha256=written.sha256,
        size=written.size,
        norm=found.norm,
        norms=found.norms,
        storage_error=found.relative_error if dtype != "F32" else None,
    )


@dataclass(slots=True)
class _Sums:
    norms: dict[str, float] = field(default_factory=dict)
    elements: int = 0
    zeros: int = 0
    positive: float = 0.0
    negative: float = 0.0
    poles: float = 0.0
    error: float = 0.0


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
        sums.error += _dot(kept - phi, kept - phi)


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
    )


def _gather(path: Path) -> dict[str, StoredTensor]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, spec in read_header(file, VectorError).tensors.items():
            if name in tensors:
                raise VectorError(f"{path} holds {name!r} in two files. Leave one of them out.")
            tensors[name] = StoredTensor(file, spec)
    if not tensors:
        raise VectorError(f"{path} holds no safetensors with differences.")
    return tensors
