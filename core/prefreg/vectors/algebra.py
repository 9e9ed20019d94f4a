"""The geometry of whole vectors, in float64."""

import math
from collections.abc import Sequence

import torch

from prefreg.errors import VectorError
from prefreg.vectors.lowrank import LowRankVector, inner
from prefreg.vectors.stored import BLOCK_ELEMENTS, blocks
from prefreg.vectors.tensors import TensorSource, require_same_names

_WHAT = ("the first vector", "the second vector")


def dot(first: TensorSource, second: TensorSource, *, sparse: bool = False) -> float:
    """Return the inner product of two vectors of one base.

    With `sparse`, a vector is zero where it holds no tensor, as a low-rank one is.
    """
    names = first.names
    if sparse:
        names = tuple(name for name in names if name in set(second.names))
    else:
        require_same_names(first, second, what=_WHAT)
    return sum(
        float(
            torch.sum(
                first.block(name, start, stop).double() * second.block(name, start, stop).double()
            )
        )
        for name in names
        for start, stop in blocks(math.prod(first.shape(name)))
    )


def norm(vector: TensorSource) -> float:
    """Return the Euclidean length."""
    return math.sqrt(dot(vector, vector))


def cosine(first: TensorSource, second: TensorSource) -> float:
    """Return the cosine between two vectors of one base."""
    lengths = norm(first) * norm(second)
    if not lengths:
        raise VectorError("The cosine with a vector of zeros is not defined.")
    return dot(first, second) / lengths


Gram = torch.Tensor
"""The inner product of every vector with every other, in float64."""


def gram(vectors: Sequence[TensorSource]) -> dict[str, Gram]:
    """Return the inner products by the names of the tensors, sorted.

    Each vector is read once, and what is in memory at a time is one block, shared by all vectors
    however many they are; low-rank vectors meet by their factors and are never multiplied out. A
    vector is zero where it holds no tensor.
    """
    found = {}
    for name in sorted({name for vector in vectors for name in vector.names}):
        holders = [place for place, vector in enumerate(vectors) if name in set(vector.names)]
        shapes = {vectors[place].shape(name) for place in holders}
        if len(shapes) != 1:
            raise VectorError(
                f"{name!r} has the shapes {sorted(shapes)}: the vectors are not of one base."
            )
        chosen = [vectors[place] for place in holders]
        products = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
        places = torch.tensor(holders)
        products[places[:, None], places] = _products(chosen, name, shapes.pop())
        found[name] = products
    return found


def _products(vectors: Sequence[TensorSource], name: str, shape: tuple[int, ...]) -> Gram:
    thin = [vector.factors(name) for vector in vectors if isinstance(vector, LowRankVector)]
    if len(thin) == len(vectors):
        return torch.tensor(
            [[inner(one, other) for other in thin] for one in thin], dtype=torch.float64
        )
    products = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for start, stop in blocks(math.prod(shape), max(1, BLOCK_ELEMENTS // len(vectors))):
        # The product of two float32 numbers is exact in float64.
        rows = torch.stack([vector.block(name, start, stop) for vector in vectors]).double()
        products += rows @ rows.T
    return products
