"""Vectors of one base compared in the weights: angles, sign conflicts and subspaces."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefreg.composition.resolve import ResolvedTerm
from prefreg.errors import UsageError
from prefreg.evaluation.alignment import Matrix, align, layer_of
from prefreg.evaluation.candidates import find_vectors, label, opened_vectors
from prefreg.evaluation.evaluation_request import Comparing, InterferenceRequest
from prefreg.evaluation.functional import STEP
from prefreg.evaluation.leakage import Behaviour
from prefreg.evaluation.plots import LabelledMatrix, draw_matrices
from prefreg.evaluation.subspaces import (
    Interaction,
    leading_directions,
    overlap,
    random_interactions,
)
from prefreg.progress import Progress
from prefreg.registry import BaseRecord
from prefreg.registry.access import Access
from prefreg.vectors.pole_tensors import TensorSource


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
    """Compare every two of η·φ; each tensor is read once for each of both parts, and let go."""
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


@dataclass(frozen=True, slots=True)
class Interference:
    """Vectors of one base and how they lie to each other in the weights."""

    terms: tuple[ResolvedTerm, ...]
    base: BaseRecord
    comparing: Comparing
    geometry: WeightGeometry

    @property
    def labels(self) -> tuple[str, ...]:
        """The vectors with their coefficients."""
        return tuple(map(label, self.terms))


def measure_interference(
    access: Access, request: InterferenceRequest, progress: Progress | None = None
) -> Interference:
    """Compare vectors of one base in the weights, without loading a model."""
    with access.reading() as store:
        base, terms = find_vectors(store, request.terms, request.base, request.at)
        if len(terms) < 2:
            raise UsageError(
                f"Interference is between vectors, and {terms[0].record} is only one: "
                "name another, or add an axis to this base."
            )
        with opened_vectors(store, terms) as vectors:
            etas = [term.eta for term in terms]
            geometry = compare_in_weights(vectors, etas, request.comparing, progress)
    return Interference(terms, base, request.comparing, geometry)


def interference_view(found: Interference) -> dict[str, Any]:
    """Return it in a form that JSON can hold."""
    names = [str(term.record) for term in found.terms]
    return {
        "base": found.base.name,
        "terms": [
            {
                "axis": term.record.axis,
                "version": term.record.number,
                "eta": term.eta,
                "norm": norm,
                "sha256": term.record.sha256,
            }
            for term, norm in zip(found.terms, found.geometry.norms, strict=True)
        ],
        **asdict(found.comparing),
        "sti": sti_view(found.geometry.sti),
        "pairs": [
            asdict(pair)
            | {"first": names[pair.first], "second": names[pair.second], "sti": sti_view(pair.sti)}
            for pair in found.geometry.pairs
        ],
        "layers": [
            {
                "layer": each.layer,
                "cosines": [
                    {
                        "first": names[one],
                        "second": names[other],
                        "cosine": number_or_none(each.cosines[one, other]),
                    }
                    for one, other in combinations(range(len(names)), 2)
                ],
                "sti": sti_view(each.sti),
            }
            for each in found.geometry.layers
        ],
        "skipped": list(found.geometry.skipped),
    }


def sti_view(sti: Sti | None) -> dict[str, float] | None:
    """Return it in a form that JSON can hold."""
    return None if sti is None else asdict(sti) | {"ratio": sti.ratio}


def draw_interference(found: Interference, behaviour: Behaviour | None, destination: Path) -> None:
    """Draw cosines, sign conflicts, shared subspaces and interference as heat maps.

    Behind them come the cosines in predictions and the leakage matrix, where they were measured.
    """
    geometry, labels = found.geometry, found.labels

    def panel(
        title: str, read: Callable[[PairGeometry], float | None], unit: str, *ends: float
    ) -> LabelledMatrix:
        low, middle, high = ends
        return LabelledMatrix(title, geometry.matrix(read), labels, labels, unit, low, middle, high)

    most = [
        float(np.nanmax([1.5, *geometry.matrix(read).flatten()]))
        for read in (_times_chance, _sti_ratio)
    ]
    rank = found.comparing.rank
    draw_matrices(
        [
            panel("angle", lambda pair: pair.cosine, "cosine", -1, 0, 1),
            panel("sign conflicts", lambda pair: pair.conflicting_mass, "share of mass", 0, 0.5, 1),
            panel(f"shared subspace, rank {rank}", _times_chance, "× chance", 0, 1, most[0]),
            panel(f"task interference, rank {rank}", _sti_ratio, "× chance", 0, 1, most[1]),
            *(_behaviour_panels(behaviour) if behaviour else ()),
        ],
        destination,
        title=f"Interference of {len(labels)} vectors on {found.base.name}",
        caption=_caption(found) + (_behaviour_caption(behaviour) if behaviour else ""),
    )


def _behaviour_panels(found: Behaviour) -> Iterator[LabelledMatrix]:
    names = [str(term.record) for term in found.terms]
    if found.functional is not None:
        cosines = found.functional.geometry.cosines.copy()
        np.fill_diagonal(cosines, np.nan)
        yield LabelledMatrix("angle in predictions", cosines, names, names, "cosine", -1, 0, 1)
    if found.leakage is not None:
        matrix = found.leakage.matrix
        most = max(1e-9, float(np.abs(matrix).max()))
        notes = [[f"[{e.low:.2f}, {e.high:.2f}]" for e in row] for row in found.leakage.entries]
        yield LabelledMatrix(
            f"leakage: {found.leakage.of} moved by a dial, 95 % intervals",
            matrix,
            found.leakage.axes,
            found.leakage.dials,
            "base SD per unit of η",
            -most,
            0,
            most,
            across="dial",
            down=found.leakage.of,
            notes=np.array(notes),
        )


def _behaviour_caption(found: Behaviour) -> str:
    lines = [f"\nBy central differences at ±{STEP} on {found.prompts} prompts, or pairs an axis."]
    if found.functional is not None:
        kl = found.functional
        lines.append(
            f"KL of {found.formula}: {kl.predicted.value:.2f} nats an answer predicted, "
            f"{kl.measured.value:.2f} measured."
        )
    return " ".join(lines)


def _times_chance(pair: PairGeometry) -> float | None:
    if pair.overlap is None or not pair.expected_overlap:
        return None
    return pair.overlap / pair.expected_overlap


def _sti_ratio(pair: PairGeometry) -> float | None:
    return pair.sti.ratio if pair.sti else None


def _caption(found: Interference) -> str:
    sti = found.geometry.sti
    together = (
        f"{sti.value:.3g}, by chance {sti.null:.3g} [{sti.null_low:.3g}, {sti.null_high:.3g}]"
        if sti
        else "none, as no two vectors share a matrix"
    )
    return (
        f"Vectors: {', '.join(found.labels)}.\nSign conflicts by the smaller of both changes; .5 "
        "is chance. Elsewhere chance is what random subspaces of the same shapes and spectra have."
        f"\nInterference of all together, a mean over weights: {together}."
    )
