"""Read a fine-tuned model by its change: how far it went along each axis that is known.

The change δ = θ − θ_base is taken tensor by tensor and written as Σ ηᵢ·φᵢ + rest, by least squares
over all φ at once, so that axes which lie alike do not count twice.

Trainings of one base share directions, whatever they are about: a fine-tune on neutral text has
cosines with every φ that random directions never have. So an interval lets the rest lie along an
axis as far as two different axes of the base lie along each other, and adds what leaving out one
tensor at a time changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.resolve import ResolvedTerm, base_spec, find_base
from prefreg.errors import BaseModelError, DataError
from prefreg.evaluation.candidates import find_vectors, opened_vectors
from prefreg.evaluation.dial_effects import functional_geometry
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import open_dials
from prefreg.evaluation.statistics import Estimate, jackknife_error
from prefreg.evaluation.weight_geometry import cosines_of
from prefreg.progress import Progress, steps_of
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term, brief_eta
from prefreg.vectors.algebra import gram
from prefreg.vectors.fine_tunes import open_change
from prefreg.vectors.tensors import TensorSource

Matrix = NDArray[np.float64]
_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class AxisReading:
    """How far the change goes along one axis."""

    record: VersionRecord
    eta: Estimate
    """The coefficient, beside those of the other axes."""
    share: float
    """Of the energy ‖δ‖² that lies along this axis; the shares of all axes add up."""
    cosine: float
    """With this axis alone, in the weights."""
    chance: float
    """The standard deviation of that cosine for random directions of the same norms by tensor."""
    functional_cosine: float | None
    """In the model's predictions; None where it was not measured."""

    @property
    def told(self) -> bool:
        """Whether the change goes along the axis, either way."""
        return self.eta.low > 0 or self.eta.high < 0

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "axis": self.record.axis,
            "version": self.record.number,
            "eta": self.eta.to_json(),
            "share": self.share,
            "cosine": self.cosine,
            "chance": self.chance,
            "functional_cosine": self.functional_cosine,
            "told": self.told,
        }


@dataclass(frozen=True, slots=True)
class CheckpointAudit:
    """What a fine-tuned model changed, as far as the axes know it."""

    checkpoint: str
    base: str
    norm: float
    """‖δ‖."""
    tensors: int
    axes: tuple[AxisReading, ...]
    chance: float
    """The share of energy that as many random directions would have."""
    alike: float | None
    """The root mean square cosine of two different axes of the base; None of fewer than two."""
    missing: str | None
    """Why there are no functional cosines, where they were asked for."""

    @property
    def share(self) -> float:
        """The share of the change that lies in the known axes."""
        return sum(each.share for each in self.axes)

    @property
    def verdict(self) -> str:
        """Say it in a sentence."""
        told = sorted((each for each in self.axes if each.told), key=lambda each: -each.share)
        ways = [
            f"{'toward' if each.eta.value > 0 else 'away from'} {each.record.axis} like "
            f"η ≈ {brief_eta(round(each.eta.value, 2))}"
            for each in told
        ]
        moves = f"It moves {' and '.join(ways)}" if ways else "It moves along no known axis"
        return (
            f"{moves}; {self.share:.2%} of the change lies in the known axes, where random "
            f"directions would have {self.chance:.4%}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "checkpoint": self.checkpoint,
            "base": self.base,
            "norm": self.norm,
            "tensors": self.tensors,
            "share": self.share,
            "chance": self.chance,
            "alike": self.alike,
            "axes": [each.to_json() for each in self.axes],
            "verdict": self.verdict,
            "missing": self.missing,
        }


def audit_checkpoint(
    access: Access,
    checkpoint: str | Path,
    terms: Sequence[Term] = (),
    request: EvaluationRequest | None = None,
    *,
    functional: bool = True,
    progress: Progress | None = None,
) -> CheckpointAudit:
    """Read a checkpoint, or the folder of a PEFT adapter, by the vectors of its base.

    Without `functional` no model is loaded; with it, angles are measured in predictions too, at
    the prompts of the request.
    """
    request = request or EvaluationRequest()
    with access.reading() as store:
        found_base, found = find_vectors(store, terms, request.base, request.at)
        # Not asked for, but they say how far different axes lie along each other.
        _, known = find_vectors(store, (), base_spec(found_base), request.at)
        axes = {term.record.axis for term in found}
        more = [term for term in known if term.record.axis not in axes]
        records = [term.record for term in (*found, *more)]
        sources = [(record, store.vector_source(record)) for record in records]
    base = find_base(found_base) if request.base is None else resolve_base(request.base)
    change = open_change(checkpoint, base)
    with opened_vectors(sources) as vectors:
        everything: list[TensorSource] = [change, *vectors]
        asked = everything[: 1 + len(found)]
        products = {name: each.numpy() for name, each in gram(everything).items()}
        cosines, missing = None, None
        whole = _require_change(products, checkpoint, base)
        if functional:
            try:
                cosines = _functional(access, found, request, asked, progress)
            except DataError as error:
                missing = str(error)
    sizes = {name: _elements(everything, name) for name in products}
    alike = _likeness(whole[1:, 1:])
    known_products = {name: each[: len(asked), : len(asked)] for name, each in products.items()}
    readings, chance = _read_axes(found, known_products, sizes, cosines, alike or 0.0)
    return CheckpointAudit(
        checkpoint=str(checkpoint),
        base=str(base),
        norm=float(np.sqrt(whole[0, 0])),
        tensors=len(products),
        axes=readings,
        chance=chance,
        alike=alike,
        missing=missing,
    )


def solve_etas(products: Matrix) -> Matrix:
    """Return the coefficients of the least squares; the first row and column are those of δ."""
    found = np.linalg.lstsq(products[1:, 1:], products[1:, 0], rcond=1e-10)[0]
    return np.asarray(found, dtype=np.float64)


def _require_change(products: dict[str, Matrix], checkpoint: str | Path, base: BaseModel) -> Matrix:
    whole: Matrix = np.sum(list(products.values()), axis=0)
    if not np.isfinite(whole).all():
        broken = next(name for name, each in products.items() if not np.isfinite(each).all())
        raise BaseModelError(f"{broken!r} of {checkpoint} holds NaN or infinity.")
    if not whole[0, 0]:
        raise BaseModelError(f"{checkpoint} holds the weights of {base}: nothing was changed.")
    return whole


def _elements(sources: Sequence[TensorSource], name: str) -> int:
    holder = next(each for each in sources if name in each.names)
    return int(np.prod(holder.shape(name)))


def _read_axes(
    terms: Sequence[ResolvedTerm],
    products: dict[str, Matrix],
    sizes: dict[str, int],
    functional: Matrix | None,
    alike: float,
) -> tuple[tuple[AxisReading, ...], float]:
    stacked = np.stack(list(products.values()))
    whole = stacked.sum(0)
    energy = float(whole[0, 0])
    elements = np.array([sizes[name] for name in products], dtype=np.float64)

    @cache
    def etas_of(*tensors: int) -> Matrix:
        return solve_etas(stacked[list(tensors)].sum(0))

    def eta_without(place: int, kept: Sequence[int]) -> float:
        return float(etas_of(*kept)[place])

    etas = etas_of(*range(len(stacked)))
    rest = max(0.0, energy - float(etas @ whole[1:, 0]))
    inverse = np.linalg.pinv(whole[1:, 1:], rcond=1e-10)
    readings, by_chance = [], 0.0
    for place, term in enumerate(terms, start=1):
        square = float(whole[place, place])
        # ⟨r, δ⟩ of a Gaussian r with the norms of φ by tensor.
        variance = float((stacked[:, place, place] * stacked[:, 0, 0] / elements).sum())
        by_chance += variance / (square * energy)
        value = float(etas[place - 1])
        error = jackknife_error(len(stacked), partial(eta_without, place - 1))
        half = _Z95 * float(np.sqrt(error**2 + alike**2 * rest * inverse[place - 1, place - 1]))
        readings.append(
            AxisReading(
                record=term.record,
                eta=Estimate(value, value - half, value + half, len(stacked)),
                share=value * float(whole[place, 0]) / energy,
                cosine=float(whole[place, 0] / np.sqrt(square * energy)),
                chance=float(np.sqrt(variance / (square * energy))),
                functional_cosine=None if functional is None else float(functional[0, place]),
            )
        )
    return tuple(readings), by_chance


def _likeness(products: Matrix) -> float | None:
    cosines = cosines_of(products)
    others = cosines[~np.eye(len(cosines), dtype=bool)]
    return float(np.sqrt(np.nanmean(others**2))) if others.size else None


def _functional(
    access: Access,
    terms: Sequence[ResolvedTerm],
    request: EvaluationRequest,
    sources: Sequence[TensorSource],
    progress: Progress | None,
) -> Matrix:
    pinned = [Term(each.record.axis, 1.0, str(each.record.number)) for each in terms]
    evaluator = open_dials(access, pinned, request, progress)
    evaluator.dtype = torch.float32

    def turn(etas: Sequence[float]) -> PreTrainedModel:
        return evaluator.turn([pair for pair in zip(etas, sources, strict=True) if pair[0]])

    answers = evaluator.drawn(evaluator.plain)
    steps = steps_of(progress, "differences of logits")
    return functional_geometry(turn, len(sources), answers, progress=steps).cosines
