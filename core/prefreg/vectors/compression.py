"""Making a vector smaller: fewer bits, fewer numbers, or a lower rank."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefreg.errors import UsageError, VectorError
from prefreg.vectors.factors import Factors, recompress, truncate
from prefreg.vectors.kinds import Vector
from prefreg.vectors.lowrank import LowRankVector, write_low_rank
from prefreg.vectors.quantised import write_int8
from prefreg.vectors.sparse import write_sparse
from prefreg.vectors.writing import WrittenFile, write_dense

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
    """Write a smaller form of a vector: `dtype` BF16, `int8`, `topk` share, or `rank`.

    Raises:
        UsageError: It is no smaller form, or not one of this kind of vector.
        VectorError: The vector cannot be read, or nothing of it is left.
        OutputError: The destination cannot be written.
    """
    if isinstance(vector, LowRankVector) and how != "rank":
        raise UsageError("A low-rank vector is small, and becomes smaller by --rank only.")
    return _FORMS[how](vector, destination, value)


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
