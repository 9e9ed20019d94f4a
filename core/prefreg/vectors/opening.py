"""Opening a stored vector of any kind."""

from pathlib import Path

from prefreg.errors import VectorError
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.lowrank import LowRankVector
from prefreg.vectors.quantised import Int8Vector
from prefreg.vectors.sparse import SparseVector

Vector = DenseVector | LowRankVector | Int8Vector | SparseVector
_KINDS: dict[str, type[Vector]] = {
    "dense": DenseVector,
    "low-rank": LowRankVector,
    "int8": Int8Vector,
    "sparse": SparseVector,
}


def open_vector(source: Path | bytes, *, kind: str = "dense", label: str | None = None) -> Vector:
    """Open the vector in a file or in a registry's bytes; `label` names it in messages.

    Raises:
        VectorError: It cannot be read, is damaged, or is of a kind that is not known here.
    """
    if kind not in _KINDS:
        raise VectorError(
            f"A vector of kind {kind!r} cannot be read by this version of prefreg. Upgrade it."
        )
    return _KINDS[kind].open(source, label=label)
