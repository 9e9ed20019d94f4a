"""Vectors of one base compared in the weights: angles, sign conflicts and subspaces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch

from prefreg.errors import UsageError
from prefreg.evaluation.geometry.alignment import Matrix, align, layer_of
from prefreg.evaluation.geometry.subspaces import (
    Interaction,
    leading_directions,
    overlap,
    random_interactions,
)
from prefreg.vectors.sources import TensorSource

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Comparing:
    """How subspaces are compared."""

    rank: int = 8
    """Leading directions of each vector in a weight."""
    draws: int = 200
    """Of random subspaces."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "draws"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True, slots=True)
class Sti:
    """Singular task interference, a mean over weights, beside that of random subspaces."""

    value: float
    null: float
    null_low: float
    null_high: float
    """Of random subspaces of the same shapes and spectra: mean and the middle 95 %."""
    p: float
    """Share of them that interfere as much."""

    @property
    def ratio(self) -> float:
        """How many times as much as random subspaces do."""
        return self.value / self.null


@dataclass(frozen=True, slots=True)
class PairGeometry:
    """Two vectors, by their places."""

    first: int
    second: int
    cosine: float | None
    conflicts: float | None
    conflicting_mass: float | None
    overlap: float | None
    expected_overlap: float | None
    sti: Sti | None


@dataclass(frozen=True, slots=True)
class LayerGeometry:
    """One layer, or a module outside the layers."""

    layer: str
    cosines: Matrix
    sti: Sti | None


@dataclass(frozen=True, slots=True)
class WeightGeometry:
    """How vectors lie to each other in the weights."""

    pairs: tuple[PairGeometry, ...]
    """Every two vectors, by their places."""
    layers: tuple[LayerGeometry, ...]
    """In the order of the model, behind what stands outside the layers."""
    sti: Sti | None
    """Of all vectors together; None where they share no matrix."""
    norms: tuple[float, ...]
    skipped: tuple[str, ...]
    """Weights that are no matrices, so that they have angles but no subspaces."""

    def matrix(self, read: Callable[[PairGeometry], float | None]) -> Matrix:
        """Return a figure of every two vectors; NaN on the diagonal and where there is none."""
        found = np.full((len(self.norms),) * 2, np.nan)
        for pair in self.pairs:
            value = read(pair)
            if value is not None:
                found[pair.first, pair.second] = found[pair.second, pair.first] = value
        return found


def compare_in_weights(
    vectors: Sequence[TensorSource],
    etas: Sequence[float],
    comparing: Comparing,
    progress: Progress | None = None,
) -> WeightGeometry:
    """Compare every two of η·φ; each tensor is read once for each of both parts, and let go.

    Raises:
        VectorError: A tensor has another shape in one vector than in another.
    """
    alignment = align(vectors, etas)
    couples = list(combinations(range(len(vectors)), 2))
    subspaces = _Subspaces({pair: _Pair() for pair in couples})
    generator = np.random.default_rng(comparing.seed)
    names = sorted({name for vector in vectors for name in vector.names})
    for number, name in enumerate(names, start=1):
        subspaces.add_weight(name, vectors, etas, comparing, generator)
        if progress is not None:
            progress("subspaces", number, len(names))
    total, layers = alignment.total, subspaces.layers
    return WeightGeometry(
        pairs=tuple(
            PairGeometry(
                *pair,
                cosine=number_or_none(total.cosines[pair]),
                conflicts=number_or_none(total.conflicts[pair]),
                conflicting_mass=number_or_none(total.conflicting_mass[pair]),
                overlap=_mean(shared.overlaps),
                expected_overlap=_mean(shared.expected),
                sti=shared.meeting.result(),
            )
            for pair, shared in subspaces.pairs.items()
        ),
        layers=tuple(
            LayerGeometry(layer, sums.cosines, layers[layer].result() if layer in layers else None)
            for layer, sums in alignment.layers.items()
        ),
        sti=subspaces.together.result(),
        norms=tuple(float(norm) for norm in np.sqrt(np.diag(total.products))),
        skipped=tuple(subspaces.skipped),
    )


@dataclass(slots=True)
class _Meeting:
    """Interference summed over weights: real, and of every draw of random subspaces."""

    real: float = 0.0
    null: Matrix = field(default_factory=lambda: np.zeros(1))
    weights: int = 0

    def add(self, real: torch.Tensor, null: torch.Tensor) -> None:
        self.real += float(real)
        self.null = self.null + null.numpy()
        self.weights += 1

    def result(self) -> Sti | None:
        if not self.weights:
            return None
        null, real = self.null / self.weights, self.real / self.weights
        low, high = np.quantile(null, (0.025, 0.975))
        # A draw that differs by rounding only is as large.
        reached = int((null >= real * (1 - 1e-9)).sum())
        p = (1 + reached) / (1 + len(null))
        return Sti(real, float(null.mean()), float(low), float(high), p)


@dataclass(slots=True)
class _Pair:
    meeting: _Meeting = field(default_factory=_Meeting)
    overlaps: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Subspaces:
    pairs: dict[tuple[int, int], _Pair]
    together: _Meeting = field(default_factory=_Meeting)
    layers: dict[str, _Meeting] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add_weight(
        self,
        name: str,
        vectors: Sequence[TensorSource],
        etas: Sequence[float],
        comparing: Comparing,
        generator: np.random.Generator,
    ) -> None:
        shape = next(vector.shape(name) for vector in vectors if name in vector.names)
        if len(shape) != 2:
            self.skipped.append(name)
            return
        parts = {}
        for place, (vector, eta) in enumerate(zip(vectors, etas, strict=True)):
            directions = leading_directions(vector, name, comparing.rank)
            if directions is not None:
                parts[place] = directions.scaled(eta)
        if len(parts) < 2:
            return
        real = Interaction.of(list(parts.items()))
        null = random_interactions(real, comparing.draws, generator)
        for meeting in (self.together, self.layers.setdefault(layer_of(name), _Meeting())):
            meeting.add(real.sti(), null.sti())
        for pair, found in self.pairs.items():
            if set(pair) <= parts.keys():
                found.meeting.add(real.sti(pair), null.sti(pair))
                shared, expected = overlap(*(parts[place] for place in pair))
                found.overlaps.append(shared)
                found.expected.append(expected)


def number_or_none(value: float) -> float | None:
    """Return a figure, or None where it is not defined."""
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
