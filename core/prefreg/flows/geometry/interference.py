"""How stored vectors lie to each other in the weights."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from prefreg.errors import UsageError
from prefreg.evaluation.geometry.functional import STEP
from prefreg.evaluation.geometry.heatmaps import HeatMap, draw_heatmaps
from prefreg.evaluation.geometry.interference import (
    Comparing,
    PairGeometry,
    Progress,
    Sti,
    WeightGeometry,
    compare_in_weights,
    number_or_none,
)
from prefreg.flows.access import Access
from prefreg.flows.geometry.behaviour import Behaviour
from prefreg.flows.geometry.vectors import find_vectors, label, opened_vectors
from prefreg.flows.resolve import ResolvedTerm
from prefreg.registry import BaseRecord
from prefreg.terms import Term


@dataclass(frozen=True, slots=True)
class InterferenceRequest:
    """What is compared; every default is the command line's."""

    terms: tuple[Term, ...] = ()
    """If empty, the newest version of every axis on the base, each at 1."""
    base: str | None = None
    comparing: Comparing = field(default_factory=Comparing)
    at: datetime | None = None


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
    """Compare vectors of one base in the weights, without loading a model.

    Raises:
        UsageError: There are fewer than two vectors.
        RegistryError: A term has no version on the base, or several bases fit.
        VectorError: A vector is damaged.
    """
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
    ) -> HeatMap:
        low, middle, high = ends
        return HeatMap(title, geometry.matrix(read), labels, labels, unit, low, middle, high)

    most = [
        float(np.nanmax([1.5, *geometry.matrix(read).flatten()]))
        for read in (_times_chance, _sti_ratio)
    ]
    rank = found.comparing.rank
    draw_heatmaps(
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


def _behaviour_panels(found: Behaviour) -> Iterator[HeatMap]:
    names = [str(term.record) for term in found.terms]
    if found.functional is not None:
        cosines = found.functional.geometry.cosines.copy()
        np.fill_diagonal(cosines, np.nan)
        yield HeatMap("angle in predictions", cosines, names, names, "cosine", -1, 0, 1)
    if found.leakage is not None:
        matrix = found.leakage.matrix
        most = max(1e-9, float(np.abs(matrix).max()))
        notes = [[f"[{e.low:.2f}, {e.high:.2f}]" for e in row] for row in found.leakage.entries]
        yield HeatMap(
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
