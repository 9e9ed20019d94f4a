"""Arithmetic of whole vectors, in float32, and their geometry, in float64."""

import math

import torch

from prefreg.errors import VectorError
from prefreg.vectors.elements import blocks
from prefreg.vectors.sources import MemoryTensors, TensorSource, require_same_names

_WHAT = ("the first vector", "the second vector")


def negate(vector: TensorSource) -> MemoryTensors:
    """Return −φ, the vector of the switched axis."""
    return MemoryTensors({name: -vector.tensor(name) for name in vector.names})


def scale(vector: TensorSource, eta: float) -> MemoryTensors:
    """Return η·φ."""
    return MemoryTensors({name: vector.tensor(name) * eta for name in vector.names})


def add(first: TensorSource, second: TensorSource) -> MemoryTensors:
    """Return the sum of two vectors of one base.

    Raises:
        VectorError: Their names or shapes differ.
    """
    require_same_names(first, second, what=_WHAT)
    return MemoryTensors({name: first.tensor(name) + second.tensor(name) for name in first.names})


def dot(first: TensorSource, second: TensorSource, *, sparse: bool = False) -> float:
    """Return the inner product of two vectors of one base.

    With `sparse`, a vector is zero where it holds no tensor, as a low-rank one is.

    Raises:
        VectorError: Their names or shapes differ.
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
    """Return the cosine between two vectors of one base.

    Raises:
        VectorError: Their names or shapes differ, or one of them is zero.
    """
    lengths = norm(first) * norm(second)
    if not lengths:
        raise VectorError("The cosine with a vector of zeros is not defined.")
    return dot(first, second) / lengths
