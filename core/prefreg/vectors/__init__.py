"""Preference vectors: φ = θ₊ − θ₋ as tensors, with its extraction, storage and algebra."""

from prefreg.errors import VectorError
from prefreg.files import Source
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.stored import Vector

__all__ = ["Vector", "open_vector"]


def open_vector(source: Source, *, kind: str = "dense", label: str | None = None) -> Vector:
    """Open the vector in a file, or in a registry's bytes; `label` names it in messages."""
    if kind == DenseVector.kind:
        return DenseVector.open(source, label=label)
    # The other kinds load torch.
    from prefreg.vectors.lowrank import LowRankVector
    from prefreg.vectors.quantised import Int8Vector
    from prefreg.vectors.sparse import SparseVector

    kinds: tuple[type[Vector], ...] = (LowRankVector, Int8Vector, SparseVector)
    for each in kinds:
        if each.kind == kind:
            return each.open(source, label=label)
    raise VectorError(
        f"A vector of kind {kind!r} cannot be read by this version of prefreg. Upgrade it."
    )
