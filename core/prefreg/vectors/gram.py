"""The inner products of several vectors of one base, tensor by tensor."""

import math
from collections.abc import Sequence

import torch

from prefreg.errors import VectorError
from prefreg.vectors.elements import BLOCK_ELEMENTS, blocks
from prefreg.vectors.factors import inner
from prefreg.vectors.kinds import Vector
from prefreg.vectors.lowrank import LowRankVector

Gram = torch.Tensor
"""The inner product of every vector with every other, in float64."""


def gram(vectors: Sequence[Vector]) -> dict[str, Gram]:
    """Return the inner products by the names of the tensors, sorted.

    Each vector is read once, and what is in memory at a time is one block, shared by all vectors
    however many they are; low-rank vectors meet by their factors and are never multiplied out. A
    vector is zero where it holds no tensor.

    Raises:
        VectorError: A tensor has different shapes, or a vector cannot be read.
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


def _products(vectors: Sequence[Vector], name: str, shape: tuple[int, ...]) -> Gram:
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
