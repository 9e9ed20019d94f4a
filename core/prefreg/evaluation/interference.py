"""Vectors of one base compared in the weights, drawn beside what their dials do."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefreg.composition.resolve import ResolvedTerm
from prefreg.errors import UsageError
from prefreg.evaluation.candidates import find_vectors, opened_vectors
from prefreg.evaluation.evaluation_request import Comparing, InterferenceRequest
from prefreg.evaluation.weight_geometry import (
    PairGeometry,
    WeightGeometry,
    compare_in_weights,
    number_or_none,
)
from prefreg.progress import Progress
from prefreg.registry import Access, BaseRecord
from prefreg.terms import brief_eta

# What loads a model and what draws is imported by those who measure behaviour or draw.
if TYPE_CHECKING:
    from prefreg.evaluation.dial_effects import DialEffects
    from prefreg.evaluation.plots import LabelledMatrix


@dataclass(frozen=True, slots=True)
class Interference:
    """Vectors of one base and how they lie to each other in the weights."""

    terms: tuple[ResolvedTerm, ...]
    base: BaseRecord
    comparing: Comparing
    geometry: WeightGeometry

    @property
    def names(self) -> list[str]:
        """The vectors."""
        return [str(term.record) for term in self.terms]

    @property
    def labels(self) -> list[str]:
        """The vectors with their coefficients, which are left out where they are 1."""
        return [
            str(term.record) if term.eta == 1 else f"{brief_eta(term.eta)}·{term.record}"
            for term in self.terms
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        names, geometry = self.names, self.geometry
        return {
            "base": self.base.name,
            "terms": [
                {
                    "axis": term.record.axis,
                    "version": term.record.number,
                    "eta": term.eta,
                    "norm": norm,
                    "sha256": term.record.sha256,
                }
                for term, norm in zip(self.terms, geometry.norms, strict=True)
            ],
            **asdict(self.comparing),
            "sti": geometry.sti and geometry.sti.to_json(),
            "pairs": [
                asdict(pair)
                | {
                    "first": names[pair.first],
                    "second": names[pair.second],
                    "sti": pair.sti and pair.sti.to_json(),
                }
                for pair in geometry.pairs
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
                    "sti": each.sti and each.sti.to_json(),
                }
                for each in geometry.layers
            ],
            "skipped": list(geometry.skipped),
        }


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
        sources = [(term.record, store.vector_source(term.record)) for term in terms]
        with opened_vectors(sources) as vectors:
            etas = [term.eta for term in terms]
            geometry = compare_in_weights(vectors, etas, request.comparing, progress)
    return Interference(terms, base, request.comparing, geometry)


def draw_interference(
    found: Interference, effects: "DialEffects | None", destination: Path
) -> None:
    """Draw cosines, sign conflicts, shared subspaces and interference as heat maps.

    Behind them come the cosines in predictions and the leakage matrix, where they were measured.
    """
    from prefreg.evaluation.plots import LabelledMatrix, draw_matrices

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
            *(_effect_panels(effects) if effects else ()),
        ],
        destination,
        title=f"Interference of {len(labels)} vectors on {found.base.name}",
        caption=_caption(found) + (_effect_caption(effects) if effects else ""),
    )


def _effect_panels(found: "DialEffects") -> "Iterator[LabelledMatrix]":
    from prefreg.evaluation.plots import LabelledMatrix

    names = found.names
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


def _effect_caption(found: "DialEffects") -> str:
    from prefreg.evaluation.dial_effects import STEP

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
