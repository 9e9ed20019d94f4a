"""Which dial moves what: how every axis changes with every coefficient, near the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from prefreg.composition.resolve import ResolvedTerm
from prefreg.errors import DataError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import Column, Read
from prefreg.evaluation.functional import STEP, Functional, measure_functional
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.progress import Progress
from prefreg.registry.access import Access
from prefreg.terms import Term

Of = Literal["margin", "metric"]
ILL_CONDITIONED = 10.0
"""Above this, dials cannot be decoupled by solving for them: an error grows tenfold."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """J[i, j], how axis i changes with dial j, in base standard deviations per unit of η."""

    of: Of
    axes: tuple[str, ...]
    """Those that can be measured, the rows."""
    dials: tuple[str, ...]
    """The columns."""
    entries: tuple[tuple[Estimate, ...], ...]
    missing: dict[str, str]
    """Axes without a row, with the reason."""

    @property
    def matrix(self) -> Column:
        """J, without its intervals."""
        return np.array([[entry.value for entry in row] for row in self.entries])

    @property
    def condition(self) -> float | None:
        """The condition number of J; None where it is not square."""
        matrix = self.matrix
        return float(np.linalg.cond(matrix)) if matrix.shape[0] == matrix.shape[1] else None

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        condition = self.condition
        return {
            "of": self.of,
            "step": STEP,
            "unit": "base standard deviations per unit of η",
            "condition": condition if condition is not None and np.isfinite(condition) else None,
            "entries": [
                {"axis": axis, "dial": dial, **entry.to_json()}
                for axis, row in zip(self.axes, self.entries, strict=True)
                for dial, entry in zip(self.dials, row, strict=True)
            ],
            "missing": dict(self.missing),
        }


def measure_leakage(evaluator: Evaluator, of: Of) -> Leakage:
    """Measure J by central differences on the same prompts or pairs, twice for every dial.

    Of margins it is teacher-forced and has little noise; of metrics, on answers sampled anew for
    each of both sides with the same seed, it needs many prompts.
    """
    missing: dict[str, str] = {}
    rows: dict[str, tuple[Estimate, ...]] = {}
    for axis in evaluator.axes:
        try:
            rows[axis] = _row(evaluator, axis, of)
        except DataError as error:
            missing[axis] = str(error).rstrip(".")
    if not rows:
        why = "; ".join(f"{axis}: {reason}" for axis, reason in missing.items())
        raise DataError(f"No axis has a {of} that can be measured here: {why or 'none is scored'}.")
    dials = tuple(str(term.record) for term in evaluator.terms)
    return Leakage(of, tuple(rows), dials, tuple(rows.values()), missing)


def _row(evaluator: Evaluator, axis: str, of: Of) -> tuple[Estimate, ...]:
    read, groups = _reader(evaluator, axis, of)
    base = read(evaluator.plain)
    counted = base[np.isfinite(base)]
    deviation = float(counted.std(ddof=1)) if len(counted) > 1 else 0.0
    if not deviation:
        raise DataError(f"the {of} does not vary on the base")
    entries = []
    for place in range(len(evaluator.terms)):
        up, down = (read(evaluator.along(place, sign * STEP)) for sign in (1, -1))
        slopes = (up - down) / (2 * STEP * deviation)
        used = np.isfinite(slopes)
        owners = [group for group, kept in zip(groups, used, strict=True) if kept]
        entries.append(grouped_mean(slopes[used], owners))
    return tuple(entries)


def _reader(evaluator: Evaluator, axis: str, of: Of) -> tuple[Read, Sequence[str]]:
    """Return what reads the figure of every pair or prompt, and their groups."""
    if of == "metric":
        metric = evaluator.own_metric(axis)
        if metric is None:
            raise DataError("it has no metric for these prompts")
        return metric.read, metric.groups
    groups = evaluator.require_pairs(axis).groups
    kept = evaluator.pair_scores(evaluator.plain, axis).kept
    return partial(evaluator.margins, axis=axis), [groups[place] for place in kept]


@dataclass(frozen=True, slots=True)
class DialEffects:
    """What dials do to the loaded model: to its predictions, and each to every axis."""

    terms: tuple[ResolvedTerm, ...]
    formula: str
    prompts: int
    functional: Functional | None
    """None where it was not asked for, and so the other one."""
    leakage: Leakage | None

    @property
    def names(self) -> list[str]:
        """The versions that are turned."""
        return [str(term.record) for term in self.terms]

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        found: dict[str, Any] = {}
        if self.functional is not None:
            found["functional"] = self.functional.to_json(self.names)
        if self.leakage is not None:
            found["leakage"] = self.leakage.to_json()
        return found


def measure_effects(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    *,
    functional: bool = True,
    leakage: Of | None = "margin",
    progress: Progress | None = None,
) -> DialEffects:
    """Measure functional geometry, the leakage matrix, or both, with the base loaded once."""
    evaluator = open_dials(access, terms, request, progress)
    return DialEffects(
        terms=evaluator.terms,
        formula=evaluator.at(evaluator.etas).formula,
        prompts=len(evaluator.asked),
        functional=measure_functional(evaluator) if functional else None,
        leakage=measure_leakage(evaluator, leakage) if leakage else None,
    )
