"""All kinds of stored vectors."""

from pathlib import Path

from prefreg.errors import VectorError
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.lowrank import LowRankVector
from prefreg.vectors.quantised import Int8Vector
from prefreg.vectors.sparse import SparseVector

Vector = DenseVector | LowRankVector | Int8Vector | SparseVector

KINDS: dict[str, type[Vector]] = {
    "dense": DenseVector,
    "low-rank": LowRankVector,
    "int8": Int8Vector,
    "sparse": SparseVector,
}


def open_vector(source: Path | bytes, *, kind: str = "dense", label: str | None = None) -> "Vector":
    """Open the vector in a file or in a registry's bytes; `label` names it in messages."""
    if kind == "dense":  # which alone needs no torch
        return DenseVector.open(source, label=label)

    if kind not in KINDS:
        raise VectorError(
            f"A vector of kind {kind!r} cannot be read by this version of prefreg. Upgrade it."
        )
    return KINDS[kind].open(source, label=label)
