"""Calibrated coefficients: the raw η at which a dial has an effect of one unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from math import copysign
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefreg.composition.resolve import CALIBRATION
from prefreg.errors import DataError
from prefreg.evaluation.evaluation_request import FURTHEST, Calibrating, EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import deviation_of, pair_up
from prefreg.evaluation.statistics import Estimate, bootstrap
from prefreg.progress import Progress
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term

_TOLERANCE = 0.05
_REFINEMENTS = 5
Array = NDArray[np.float64]


class Unit(StrEnum):
    """What an effect is measured in."""

    LOG_ODDS = "log-odds"
    LOG = "log"
    DEVIATIONS = "base standard deviations"
    NATS = "nats of KL"


def unit_of(scores: Array) -> Unit:
    """Choose the unit of a metric by what it returns of the base's and other answers.

    Zeros and ones are a rate, other whole numbers from 0 on a count, such as that of words.
    """
    if np.isin(scores, (0.0, 1.0)).all():
        return Unit.LOG_ODDS
    if (scores >= 0).all() and (scores == np.round(scores)).all():
        return Unit.LOG
    return Unit.DEVIATIONS


def effect_statistic(unit: Unit, deviation: float) -> Callable[[Array], Array]:
    """Return the effect as a function of sums: scores and counts, turned and then of the base.

    A rate gets half a hit and half a miss more (Haldane), so that 0 and 1 have odds, and a count
    half a unit.
    """

    def effect(sums: Array) -> Array:
        turned, many, base, of_base = (sums[..., place] for place in range(4))
        if unit is Unit.LOG_ODDS:
            found = _log_odds(turned, many) - _log_odds(base, of_base)
        elif unit is Unit.LOG:
            found = np.log((turned + 0.5) / many) - np.log((base + 0.5) / of_base)
        else:
            found = (turned / many - base / of_base) / deviation
        return np.asarray(found)

    return effect


def _log_odds(hits: Array, count: Array) -> Array:
    return np.log((hits + 0.5) / (count - hits + 0.5))


@dataclass(frozen=True, slots=True)
class Scale:
    """The raw coefficient of one calibrated unit on one side of a dial."""

    eta: float | None
    """None where the effect does not reach the target."""
    effect: Estimate
    """Measured there, or else the largest that was found."""
    at: float
    """The coefficient at which `effect` was measured."""
    steps: int
    """Compositions that were measured."""


def find_scale(
    measure: Callable[[float], Estimate],
    *,
    target: float,
    sign: int,
    power: float = 1.0,
    furthest: float = FURTHEST,
) -> Scale:
    """Seek the coefficient of this sign whose effect is the target, by false position.

    The effect is 0 at 0 and grows about as η to the `power`; the bracket doubles from 1 until it
    holds the target, and narrows until a point is within 5 % of it. Coefficients within it have
    three digits, as recipes are read by people.
    """
    found: dict[float, Estimate] = {}

    def share_at(eta: float) -> float:
        found[eta] = measure(sign * eta)
        share = found[eta].value / target
        return float(copysign(abs(share) ** (1 / power), share))

    low, below = 0.0, 0.0
    high = min(1.0, furthest)
    above = share_at(high)
    while above < 1 and high < furthest:
        low, below = high, above
        high = min(2 * high, furthest)
        above = share_at(high)
    for _ in range(_REFINEMENTS):
        if above < 1 or _is_near(found, target):
            break
        # Kept away from the ends, so that noise cannot stall it.
        part = min(0.9, max(0.1, (1 - below) / (above - below)))
        middle = float(f"{low + (high - low) * part:.3g}")
        share = share_at(middle)
        if share < 1:
            low, below = middle, share
        else:
            high, above = middle, share
    at, effect = _closest(found, target)
    reached = above >= 1 or _is_near(found, target)
    return Scale(sign * at if reached else None, effect, sign * at, len(found))


def _closest(found: Mapping[float, Estimate], target: float) -> tuple[float, Estimate]:
    return min(found.items(), key=lambda item: abs(item[1].value - target))


def _is_near(found: Mapping[float, Estimate], target: float) -> bool:
    return abs(_closest(found, target)[1].value - target) <= _TOLERANCE * abs(target)


Measure = Callable[[float], Estimate]


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

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of a calibration, in a form that JSON can hold."""
        return {
            "goal": self.calibrating.goal,
            "by": self.calibrating.by,
            "target": self.calibrating.target,
            "unit": str(self.unit),
            "positive": asdict(self.positive),
            "negative": asdict(self.negative),
            "asymmetry": self.asymmetry,
        }


def calibrate(
    access: Access,
    terms: Sequence[Term],
    calibrating: Calibrating,
    request: EvaluationRequest,
    *,
    store: bool = True,
    progress: Progress | None = None,
) -> list[Calibration]:
    """Find the scale of every dial on both sides, and keep each with its version."""
    evaluator = open_dials(access, terms, request, progress)
    if store:
        access.writing().close()  # known before minutes of work
    found = []
    for place in range(len(evaluator.terms)):
        one = _calibrate_one(evaluator, place, calibrating)
        found.append(one)
        if store:
            record = one.record
            with access.writing() as opened:
                value = one.to_json()
                opened.measure(record.axis, record.number, CALIBRATION, value, one.protocol)
    return found


def _calibrate_one(evaluator: Evaluator, place: int, calibrating: Calibrating) -> Calibration:
    record = evaluator.terms[place].record
    by_kl = calibrating.by == "kl"
    unit, measure = _nats(evaluator, place) if by_kl else _effect(evaluator, place)

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
    protocol = (
        f"{calibrating.goal} in {unit}; {evaluator.describe_prompts()}, temperature 1, "
        f"seed {evaluator.request.seed}"
    )
    return Calibration(record, calibrating, unit, positive, negative, protocol)


def _nats(evaluator: Evaluator, place: int) -> tuple[Unit, Measure]:
    """Return the KL from the base as a function of η."""
    axis, kl = evaluator.terms[place].record.axis, evaluator.answer_metrics()["kl"]

    def measure(eta: float) -> Estimate:
        figures = evaluator.figures(evaluator.along(place, eta), kl)
        found = figures.find("kl")
        if found is None:
            raise DataError(f"The KL of {axis} was not measured: {figures.missing['kl']}")
        return found.value

    return Unit.NATS, measure


def _effect(evaluator: Evaluator, place: int) -> tuple[Unit, Measure]:
    """Return the unit of an axis's own metric, and its change in that unit as a function of η.

    Without a metric it is the margin of its held-out pairs.
    """
    axis = evaluator.terms[place].record.axis
    metric = evaluator.own_metric(axis)
    if metric is not None:
        what, read, groups = "metric", metric.read, metric.groups
    else:
        try:
            groups = evaluator.margin_groups(axis)
        except DataError as error:
            raise DataError(
                f"{axis} has no metric for these prompts, and of its held-out pairs: {error}. "
                "Or use --by kl."
            ) from error
        what, read = "margin", partial(evaluator.margins, axis=axis)
    base = read(evaluator.plain)
    unit = unit_of(base[np.isfinite(base)])
    deviation = deviation_of(base)
    if unit is Unit.DEVIATIONS and not deviation:
        raise DataError(f"The {what} of {axis} does not vary on the base: use --by kl.")
    statistic = effect_statistic(unit, deviation)

    def measure(eta: float) -> Estimate:
        turned = read(evaluator.along(place, eta))
        return bootstrap(*pair_up(turned, base, groups), statistic).estimate

    return unit, measure
