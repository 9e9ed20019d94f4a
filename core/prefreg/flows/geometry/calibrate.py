"""Calibrate dials: the scale at which η = 1 means the same effect on every axis."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.figures import Column
from prefreg.evaluation.geometry.scales import (
    FURTHEST,
    Scale,
    Unit,
    effect_statistic,
    find_scale,
    unit_of,
)
from prefreg.evaluation.statistics import Estimate, bootstrap
from prefreg.flows.access import Access
from prefreg.flows.geometry.board import Board, open_board
from prefreg.flows.geometry.kept import CALIBRATION
from prefreg.flows.measuring.candidates import Candidate
from prefreg.flows.measuring.evaluator import Progress
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.terms import Term, format_eta

By = Literal["effect", "kl"]
Measure = Callable[[float], Estimate]


@dataclass(frozen=True, slots=True)
class Calibrating:
    """What one calibrated unit shall be."""

    by: By = "effect"
    target: float = 1.0
    """Units of effect, or nats of KL per answer."""
    furthest: float = FURTHEST

    def __post_init__(self) -> None:
        for name in ("target", "furthest"):
            if not 0 < getattr(self, name) < 1e6:
                raise UsageError(f"{name} must be a number above 0, got {getattr(self, name)}.")

    @property
    def goal(self) -> str:
        """What coefficients calibrated alike have in common."""
        unit = "of effect" if self.by == "effect" else "nats of KL per answer"
        return f"{format_eta(self.target)} {unit}"


@dataclass(frozen=True, slots=True)
class Calibration:
    """The scales of one dial."""

    record: VersionRecord
    calibrating: Calibrating
    unit: Unit
    positive: Scale
    negative: Scale
    protocol: str

    @property
    def asymmetry(self) -> float | None:
        """How many times as far the − side must be turned as the + side."""
        if self.positive.eta is None or self.negative.eta is None:
            return None
        return abs(self.negative.eta) / self.positive.eta


def calibrate(
    access: Access,
    terms: Sequence[Term],
    calibrating: Calibrating,
    request: EvaluationRequest,
    *,
    store: bool = True,
    progress: Progress | None = None,
) -> list[Calibration]:
    """Find the scale of every dial on both sides, and keep each with its version.

    Raises:
        RegistryError: There is no such version, or the registry cannot be written.
        DataError: An axis has no metric, or its metric applies to too few answers.
    """
    if store:
        access.changing().close()  # known before minutes of work
    board = open_board(access, terms, request, progress)
    found = []
    for place in range(len(board.terms)):
        one = _calibrate_one(board, place, calibrating, request)
        found.append(one)
        if store:
            record = one.record
            with access.changing() as opened:
                value = calibration_value(one)
                opened.measure(record.axis, record.number, CALIBRATION, value, one.protocol)
    return found


def _calibrate_one(
    board: Board, place: int, calibrating: Calibrating, request: EvaluationRequest
) -> Calibration:
    record = board.terms[place].record
    by_kl = calibrating.by == "kl"
    unit, measure = _nats(board, place) if by_kl else _effect(board, place)

    def side(sign: int) -> Scale:
        return find_scale(
            measure,
            # A divergence is positive on either side, and grows with the square.
            target=calibrating.target * (1 if by_kl else sign),
            sign=sign,
            power=2.0 if by_kl else 1.0,
            furthest=calibrating.furthest,
        )

    positive, negative = side(1), side(-1)
    asked = board.evaluator.asked
    protocol = (
        f"{calibrating.goal} in {unit}; {len(asked)} prompts in "
        f"{len({each.group for each in asked})} groups, temperature 1, seed {request.seed}"
    )
    return Calibration(record, calibrating, unit, positive, negative, protocol)


def _nats(board: Board, place: int) -> tuple[Unit, Measure]:
    """Return the KL from the base as a function of η."""
    axis = board.terms[place].record.axis

    def measure(eta: float) -> Estimate:
        figures = board.figures(board.along(place, eta), axis)
        found = figures.find("kl")
        if found is None:
            raise DataError(f"The KL of {axis} was not measured: {figures.missing['kl']}")
        return found.value

    return Unit.NATS, measure


def _effect(board: Board, place: int) -> tuple[Unit, Measure]:
    """Return the unit of an axis's own metric, and its change in that unit as a function of η."""
    axis = board.terms[place].record.axis
    if not board.has_metric(axis):
        raise DataError(
            f"{axis} has no metric for these prompts, so its effect has no unit: use --by kl."
        )
    base = _scores(board, axis, board.along(place, 0.0))
    counted = base[np.isfinite(base)]
    unit = unit_of(counted)
    deviation = float(counted.std(ddof=1)) if len(counted) > 1 else 0.0
    if unit is Unit.DEVIATIONS and not deviation:
        raise DataError(f"The metric of {axis} does not vary on the base: use --by kl.")
    statistic = effect_statistic(unit, deviation)
    groups = [each.group for each in board.evaluator.asked]

    def measure(eta: float) -> Estimate:
        turned = _scores(board, axis, board.along(place, eta))
        ones = [np.isfinite(side).astype(np.float64) for side in (turned, base)]
        table = np.stack([np.nan_to_num(turned), ones[0], np.nan_to_num(base), ones[1]], axis=1)
        used = (ones[0] + ones[1]) > 0
        owners = [group for group, kept in zip(groups, used, strict=True) if kept]
        return bootstrap(table[used], owners, statistic).estimate

    return unit, measure


def _scores(board: Board, axis: str, candidate: Candidate) -> Column:
    scores = board.scores(axis, candidate)
    return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)


def calibration_value(found: Calibration) -> dict[str, Any]:
    """Return what is kept of a calibration, in a form that JSON can hold."""
    return {
        "goal": found.calibrating.goal,
        "by": found.calibrating.by,
        "target": found.calibrating.target,
        "unit": str(found.unit),
        "positive": asdict(found.positive),
        "negative": asdict(found.negative),
        "asymmetry": found.asymmetry,
    }
