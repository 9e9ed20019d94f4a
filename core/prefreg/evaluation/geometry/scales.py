"""Calibrated coefficients: the raw η at which a dial has an effect of one unit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import copysign

import numpy as np
from numpy.typing import NDArray

from prefreg.evaluation.statistics import Estimate

_TOLERANCE = 0.05
_REFINEMENTS = 5
FURTHEST = 8.0
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
    start: float = 1.0,
    furthest: float = FURTHEST,
) -> Scale:
    """Seek the coefficient of this sign whose effect is the target, by false position.

    The effect is 0 at 0 and grows about as η to the `power`; the bracket doubles from `start` until
    it holds the target, and narrows until a point is within 5 % of it. Coefficients within it have
    three digits, as recipes are read by people.
    """
    found: dict[float, Estimate] = {}

    def share_at(eta: float) -> float:
        found[eta] = measure(sign * eta)
        share = found[eta].value / target
        return float(copysign(abs(share) ** (1 / power), share))

    low, below = 0.0, 0.0
    high = min(start, furthest)
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
