"""Making a vector smaller: fewer bits, fewer numbers, or a lower rank; and what that costs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefreg.errors import UsageError, VectorError
from prefreg.vectors.dense import write_dense
from prefreg.vectors.lowrank import Factors, LowRankVector, recompress, truncate, write_low_rank
from prefreg.vectors.quantised import write_int8
from prefreg.vectors.sparse import write_sparse
from prefreg.vectors.stored import Vector, WrittenFile, blocks
from prefreg.vectors.tensors import TensorSource

How = Literal["dtype", "int8", "topk", "rank"]


@dataclass(frozen=True, slots=True)
class Compressed:
    """A smaller vector that was written."""

    kind: Literal["dense", "low-rank", "int8", "sparse"]
    dtype: Literal["F32", "BF16", "I8"]
    written: WrittenFile
    dropped: tuple[str, ...] = ()
    """Weights that this form cannot hold, and that it leaves unchanged."""


def compress(vector: Vector, destination: Path, *, how: How, value: Any) -> Compressed:
    """Write a smaller form of a vector: `dtype` BF16, `int8`, `topk` share, or `rank`."""
    if isinstance(vector, LowRankVector) and how != "rank":
        raise UsageError("A low-rank vector is small, and becomes smaller by --rank only.")
    return _FORMS[how](vector, destination, value)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A vector beside what is kept of it."""

    norm: float
    """‖φ‖."""
    kept_norm: float
    """‖kept‖."""
    error: float
    """‖kept − φ‖."""
    overlap: float
    """⟨kept, φ⟩."""
    norms: dict[str, float]
    """‖φ‖ by tensor."""
    kept_norms: dict[str, float]
    """‖kept‖ by tensor; those that are not kept are absent."""
    errors: dict[str, float]
    """‖kept − φ‖ by tensor."""

    @property
    def relative_error(self) -> float:
        """‖kept − φ‖ / ‖φ‖."""
        return self.error / self.norm if self.norm else 0.0

    @property
    def norm_ratio(self) -> float:
        """‖kept‖ / ‖φ‖."""
        return self.kept_norm / self.norm if self.norm else 0.0

    @property
    def cosine(self) -> float | None:
        """cos(kept, φ); None where one of them is zero."""
        lengths = self.norm * self.kept_norm
        return self.overlap / lengths if lengths else None

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the whole in a form that JSON can hold."""
        return {
            "relative_error": self.relative_error,
            "norm_ratio": self.norm_ratio,
            "cosine": self.cosine,
        }


def measure(original: TensorSource, kept: TensorSource) -> Fidelity:
    """Compare a vector with what is kept of it; a tensor that is not kept counts as zero."""
    norms: dict[str, float] = {}
    kept_norms: dict[str, float] = {}
    errors: dict[str, float] = {}
    overlap = 0.0
    present = frozenset(kept.names)
    for name in original.names:
        square = kept_square = error = 0.0
        for start, stop in blocks(math.prod(original.shape(name))):
            phi = original.block(name, start, stop).double()
            square += float(phi @ phi)
            if name not in present:
                continue
            other = kept.block(name, start, stop).double()
            kept_square += float(other @ other)
            overlap += float(other @ phi)
            lost = other - phi
            error += float(lost @ lost)
        norms[name] = math.sqrt(square)
        errors[name] = math.sqrt(error if name in present else square)
        if name in present:
            kept_norms[name] = math.sqrt(kept_square)
    return Fidelity(
        norm=math.hypot(*norms.values()),
        kept_norm=math.hypot(*kept_norms.values()),
        error=math.hypot(*errors.values()),
        overlap=overlap,
        norms=norms,
        kept_norms=kept_norms,
        errors=errors,
    )


def _to_bfloat16(vector: Vector, destination: Path, value: str) -> Compressed:
    if vector.dtype in ("BF16", "I8"):
        raise UsageError(f"The vector has {vector.dtype} already; --dtype makes it no smaller.")
    return Compressed("dense", "BF16", write_dense(vector, destination, dtype="BF16"))


def _to_int8(vector: Vector, destination: Path, _: bool) -> Compressed:
    if vector.dtype == "I8":
        raise UsageError("The vector is quantised already; --int8 makes it no smaller.")
    return Compressed("int8", "I8", write_int8(vector, destination))


def _to_largest(vector: Vector, destination: Path, share: float) -> Compressed:
    # What was bfloat16 loses nothing in bfloat16.
    dtype: Literal["F32", "BF16"] = "BF16" if vector.dtype == "BF16" else "F32"
    written = write_sparse(vector, destination, share=share, dtype=dtype)
    return Compressed("sparse", dtype, written)


def _to_rank(vector: Vector, destination: Path, rank: int) -> Compressed:
    if isinstance(vector, LowRankVector):
        largest = max(vector.ranks.values())
        if largest <= rank:
            raise UsageError(f"The vector has rank {largest}; choose a smaller one than {rank}.")
        reduced = {name: recompress(vector.factors(name), rank).factors for name in vector.names}
        return Compressed("low-rank", "F32", write_low_rank(reduced, destination))
    factors: dict[str, Factors] = {}
    dropped = []
    for name in vector.names:
        if len(vector.shape(name)) == 2:
            factors[name] = truncate(vector.tensor(name), rank).factors
        else:
            dropped.append(name)
    if not factors:
        raise VectorError("The vector changes no matrices, so it has no low-rank form.")
    return Compressed("low-rank", "F32", write_low_rank(factors, destination), tuple(dropped))


_FORMS: dict[How, Callable[[Vector, Path, Any], Compressed]] = {
    "dtype": _to_bfloat16,
    "int8": _to_int8,
    "topk": _to_largest,
    "rank": _to_rank,
}
