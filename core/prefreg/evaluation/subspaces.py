"""Subspaces that vectors share in a weight: overlap, and singular task interference.

Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model Merging, CVPR 2025:
STI = ‖(UᵀU − I)·Σ·(VᵀV − I)‖₁, the sum of absolute values, with the leading singular directions of
all vectors side by side in U and V. It is 0 where no two vectors share a direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prefreg.vectors.lowrank import LowRankVector, decompose, truncate
from prefreg.vectors.tensors import TensorSource

_TINY = 1e-150
# Directions this weak beside the first are rounding, and point anywhere.
_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Directions:
    """The leading singular directions of one vector in one weight, in float64."""

    left: torch.Tensor
    """Orthonormal columns, one a direction; of the outputs."""
    values: torch.Tensor
    right: torch.Tensor
    """The same of the inputs."""

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return len(self.values)

    def scaled(self, eta: float) -> "Directions":
        """Return the directions of η·φ; a sign goes to the left."""
        sign = -1.0 if eta < 0 else 1.0
        return Directions(self.left * sign, self.values * abs(eta), self.right)


def leading_directions(vector: TensorSource, name: str, rank: int) -> Directions | None:
    """Return the `rank` leading directions of a matrix; None where the vector is zero there.

    A low-rank vector is decomposed by its factors, without making a matrix of them.
    """
    if name not in set(vector.names):
        return None
    if isinstance(vector, LowRankVector):
        left, values, right = decompose(vector.factors(name))
    else:
        parts = truncate(vector.tensor(name), rank).factors.wide()
        # Each side carries the square root of a singular value.
        roots = parts.b.norm(dim=0).clamp(min=_TINY), parts.a.norm(dim=1).clamp(min=_TINY)
        left, values, right = parts.b / roots[0], roots[0] * roots[1], parts.a.T / roots[1]
    kept = int((values[:rank] > max(_TINY, float(values[0]) * _NOISE)).sum())
    return Directions(left[:, :kept], values[:kept], right[:, :kept]) if kept else None


def overlap(one: Directions, other: Directions) -> tuple[float, float]:
    """Return what two subspaces share, from 0 to 1, and what random ones would on average.

    It is the mean squared cosine of the principal angles, averaged over outputs and inputs.
    """
    smaller, larger = sorted((one.rank, other.rank))
    shared = expected = 0.0
    for left, right in ((one.left, other.left), (one.right, other.right)):
        shared += float((left.T @ right).square().sum()) / smaller / 2
        expected += larger / left.shape[0] / 2
    return shared, expected


@dataclass(frozen=True, slots=True)
class Interaction:
    """Inner products of the directions of several vectors in one weight."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    owners: torch.Tensor
    """The place of the vector that each direction belongs to."""
    shape: tuple[int, int]

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Directions]]) -> "Interaction":
        """Put the directions of vectors side by side; with each goes the vector's place."""
        left = torch.cat([part.left for _, part in parts], 1)
        right = torch.cat([part.right for _, part in parts], 1)
        owners = torch.tensor([place for place, part in parts for _ in range(part.rank)])
        values = torch.cat([part.values for _, part in parts])
        shape = (left.shape[0], right.shape[0])
        return cls(left.T @ left, values, right.T @ right, owners, shape)

    def sti(self, places: Sequence[int] | None = None) -> torch.Tensor:
        """Return the interference of all vectors, or of those at `places`; batches stay batches."""
        left, values, right, owners = self.left, self.values, self.right, self.owners
        if places is not None:
            kept = torch.isin(owners, torch.tensor(list(places)))
            left, right = left[..., kept, :][..., kept], right[..., kept, :][..., kept]
            values, owners = values[kept], owners[kept]
        # The directions of one vector are orthonormal: within it the difference is rounding.
        between = owners[:, None] != owners[None, :]
        product = ((left * between) * values) @ (right * between)
        found: torch.Tensor = product.abs().sum((-2, -1))
        return found


def random_interactions(
    real: Interaction, draws: int, generator: np.random.Generator
) -> Interaction:
    """Draw the null: subspaces of the same shapes and spectra, turned at random.

    The inner products of Gaussian columns are distributed as those of their triangular factor
    (Bartlett 1933), so no frame as tall as the weight is made.
    """
    sides = []
    for rows in real.shape:
        core = _gaussian_core(rows, len(real.owners), draws, generator)
        frames = [
            torch.linalg.qr(core[:, :, real.owners == place]).Q
            for place in dict.fromkeys(real.owners.tolist())
        ]
        frame = torch.cat(frames, 2)
        sides.append(frame.transpose(1, 2) @ frame)
    return Interaction(sides[0], real.values, sides[1], real.owners, real.shape)


def _gaussian_core(
    rows: int, columns: int, draws: int, generator: np.random.Generator
) -> torch.Tensor:
    """Return matrices whose columns have the inner products of Gaussian ones of `rows` numbers."""
    if rows <= columns:
        return torch.from_numpy(generator.standard_normal((draws, rows, columns)))
    core = np.triu(generator.standard_normal((draws, columns, columns)), 1)
    places = np.arange(columns)
    core[:, places, places] = np.sqrt(generator.chisquare(rows - places, (draws, columns)))
    return torch.from_numpy(core)
