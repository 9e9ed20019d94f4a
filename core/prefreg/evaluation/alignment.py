"""Angles and sign conflicts between vectors, in all and by layer, a block at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray

from prefreg.composition.rounding import group_of
from prefreg.errors import VectorError
from prefreg.vectors.lowrank import LowRankVector, inner
from prefreg.vectors.stored import blocks
from prefreg.vectors.tensors import TensorSource

Matrix = NDArray[np.float64]


@dataclass(slots=True)
class Sums:
    """What the geometry of some weights is made of, each one number for every two vectors."""

    products: Matrix
    """Inner products."""
    shared: Matrix
    """Weights that both change."""
    opposed: Matrix
    """Of those, weights that they move in opposite directions."""
    mass: Matrix
    """The smaller of both changes, summed over the weights."""
    opposed_mass: Matrix

    @classmethod
    def of(cls, count: int) -> "Sums":
        """Return sums of nothing."""
        return cls(*(np.zeros((count, count)) for _ in range(5)))

    def add(self, other: "Sums") -> None:
        """Add the sums of other weights."""
        self.products += other.products
        self.shared += other.shared
        self.opposed += other.opposed
        self.mass += other.mass
        self.opposed_mass += other.opposed_mass

    @property
    def cosines(self) -> Matrix:
        """The cosine of every two vectors; NaN with one that is zero there."""
        norms = np.sqrt(np.diag(self.products))
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Matrix = self.products / np.outer(norms, norms)
        return found

    @property
    def conflicts(self) -> Matrix:
        """Of the weights that both change, the share moved in opposite directions."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Matrix = self.opposed / self.shared
        return found

    @property
    def conflicting_mass(self) -> Matrix:
        """The same, a weight counted by the smaller of both changes: what really cancels."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Matrix = self.opposed_mass / self.mass
        return found


@dataclass(slots=True)
class Alignment:
    """Geometry of vectors in the weights."""

    total: Sums
    layers: dict[str, Sums] = field(default_factory=dict)
    """By layer, in the order of the model; embeddings and head by the name of their module."""


def layer_of(name: str) -> str:
    """Return the layer of a tensor, as in `layer 7`, or the module of one outside the layers."""
    number = next((part for part in name.split(".") if part.isdecimal()), None)
    return f"layer {int(number)}" if number is not None else group_of(name)


def layer_order(layer: str) -> tuple[int, int, str]:
    """Sort layers by number, behind what stands outside of them."""
    head, _, number = layer.rpartition(" ")
    return (1, int(number), "") if head == "layer" else (0, 0, layer)


def align(vectors: Sequence[TensorSource], etas: Sequence[float]) -> Alignment:
    """Compare every two of η·φ, reading each tensor once and a block at a time.

    A vector is zero where it holds no tensor. Inner products of two low-rank vectors come from
    their factors.
    """
    count = len(vectors)
    layers: dict[str, Sums] = {}
    for name in sorted({name for vector in vectors for name in vector.names}):
        holders = [place for place in range(count) if name in set(vectors[place].names)]
        shapes = {vectors[place].shape(name) for place in holders}
        if len(shapes) > 1:
            raise VectorError(
                f"{name!r} has another shape in one vector than in another: "
                f"{' and '.join(str(list(shape)) for shape in sorted(shapes))}."
            )
        sums = layers.setdefault(layer_of(name), Sums.of(count))
        sums.add(_align_tensor(name, vectors, etas, holders))
    ordered = {layer: layers[layer] for layer in sorted(layers, key=layer_order)}
    total = Sums.of(count)
    for sums in ordered.values():
        total.add(sums)
    return Alignment(total, ordered)


def _align_tensor(
    name: str, vectors: Sequence[TensorSource], etas: Sequence[float], holders: Sequence[int]
) -> Sums:
    sums = Sums.of(len(vectors))
    at = np.ix_(holders, holders)
    for start, stop in blocks(math.prod(vectors[holders[0]].shape(name))):
        rows = torch.stack([vectors[h].block(name, start, stop) * etas[h] for h in holders])
        wide, signs = rows.double(), rows.sign()
        shared = (signs.abs() @ signs.abs().T).double().numpy()
        agreeing = (signs @ signs.T).double().numpy()
        sums.products[at] += (wide @ wide.T).numpy()
        sums.shared[at] += shared
        sums.opposed[at] += (shared - agreeing) / 2
        for one, other in combinations(range(len(holders)), 2):
            least = torch.minimum(wide[one].abs(), wide[other].abs())
            against = least[signs[one] * signs[other] < 0]
            pair = holders[one], holders[other]
            for cell in (pair, pair[::-1]):
                sums.mass[cell] += float(least.sum())
                sums.opposed_mass[cell] += float(against.sum())
    for first, second in product(holders, repeat=2):
        left, right = vectors[first], vectors[second]
        if isinstance(left, LowRankVector) and isinstance(right, LowRankVector):
            exact = inner(left.factors(name), right.factors(name))
            sums.products[first, second] = exact * etas[first] * etas[second]
    return sums
