"""Which dial moves what: how every axis changes with every coefficient, near the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prefreg.composition.resolve import ResolvedTerm
from prefreg.errors import DataError
from prefreg.evaluation.board import Board, open_board
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.functional import (
    STEP,
    Functional,
    estimate_view,
    functional_view,
    measure_functional,
)
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.progress import Progress
from prefreg.registry.access import Access
from prefreg.terms import Term

Of = Literal["margin", "metric"]
Column = NDArray[np.float64]
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


def measure_leakage(board: Board, of: Of) -> Leakage:
    """Measure J by central differences on the same prompts or pairs, twice for every dial.

    Of margins it is teacher-forced and has little noise; of metrics, on answers sampled anew for
    each of both sides with the same seed, it needs many prompts.
    """
    missing: dict[str, str] = {}
    rows: dict[str, tuple[Estimate, ...]] = {}
    for axis in board.evaluator.axes:
        try:
            rows[axis] = _row(board, axis, of)
        except DataError as error:
            missing[axis] = str(error).rstrip(".")
    if not rows:
        why = "; ".join(f"{axis}: {reason}" for axis, reason in missing.items())
        raise DataError(f"No axis has a {of} that can be measured here: {why or 'none is scored'}.")
    dials = tuple(str(term.record) for term in board.terms)
    return Leakage(of, tuple(rows), dials, tuple(rows.values()), missing)


def _row(board: Board, axis: str, of: Of) -> tuple[Estimate, ...]:
    base, groups = _values(board, axis, of, board.along(0, 0.0))
    counted = base[np.isfinite(base)]
    deviation = float(counted.std(ddof=1)) if len(counted) > 1 else 0.0
    if not deviation:
        raise DataError(f"the {of} does not vary on the base")
    entries = []
    for place in range(len(board.terms)):
        up, down = (
            _values(board, axis, of, board.along(place, sign * STEP))[0] for sign in (1, -1)
        )
        slopes = (up - down) / (2 * STEP * deviation)
        used = np.isfinite(slopes)
        owners = [group for group, kept in zip(groups, used, strict=True) if kept]
        entries.append(grouped_mean(slopes[used], owners))
    return tuple(entries)


def _values(board: Board, axis: str, of: Of, candidate: Candidate) -> tuple[Column, list[str]]:
    """Return the figure of every pair or prompt, NaN where it does not apply, and their groups."""
    evaluator = board.evaluator
    if of == "metric":
        if not board.has_metric(axis):
            raise DataError("it has no metric for these prompts")
        values = [np.nan if score is None else score for score in board.scores(axis, candidate)]
        return np.array(values, dtype=np.float64), [each.group for each in evaluator.asked]
    if axis not in evaluator.pairs:
        raise DataError(evaluator.missing.get(f"{axis}.margin", "it has no held-out pairs"))
    found, groups = evaluator.pair_scores(candidate, axis), evaluator.pairs[axis].groups
    margins = np.array(found.chosen) - np.array(found.rejected)
    return margins, [groups[place] for place in found.kept]


def leakage_view(found: Leakage) -> dict[str, Any]:
    """Return it in a form that JSON can hold."""
    condition = found.condition
    return {
        "of": found.of,
        "step": STEP,
        "unit": "base standard deviations per unit of η",
        "condition": condition if condition is not None and np.isfinite(condition) else None,
        "entries": [
            {"axis": axis, "dial": dial, **estimate_view(entry)}
            for axis, row in zip(found.axes, found.entries, strict=True)
            for dial, entry in zip(found.dials, row, strict=True)
        ],
        "missing": dict(found.missing),
    }


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What was asked for of both."""

    terms: tuple[ResolvedTerm, ...]
    formula: str
    prompts: int
    functional: Functional | None
    leakage: Leakage | None


def measure_behaviour(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    *,
    functional: bool = True,
    leakage: Of | None = "margin",
    progress: Progress | None = None,
) -> Behaviour:
    """Measure functional geometry, the leakage matrix, or both, with the base loaded once."""
    board = open_board(access, terms, request, progress)
    return Behaviour(
        terms=board.terms,
        formula=board.at(board.etas).formula,
        prompts=len(board.evaluator.asked),
        functional=measure_functional(board) if functional else None,
        leakage=measure_leakage(board, leakage) if leakage else None,
    )


def behaviour_view(found: Behaviour) -> dict[str, Any]:
    """Return it in a form that JSON can hold."""
    names = [str(term.record) for term in found.terms]
    view: dict[str, Any] = {}
    if found.functional is not None:
        view["functional"] = functional_view(names, found.functional)
    if found.leakage is not None:
        view["leakage"] = leakage_view(found.leakage)
    return view
