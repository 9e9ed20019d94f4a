"""How far a dial may be turned: the connected interval around 0 in which it keeps its promise."""

from collections.abc import Callable
from dataclasses import dataclass
from math import copysign

from prefreg.evaluation.statistics import Estimate
from prefreg.terms import format_eta

MALFORMED = 0.02
CAPABILITY = 0.95
_HALVINGS = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured at one coefficient; changes are paired against the base."""

    eta: float
    effect: Estimate
    """Change of the axis's own metric, or else of its held-out margin."""
    malformed: float
    base_malformed: float
    capability: Estimate | None
    """Change of what the base answers rightly; None where nothing can be checked."""
    base_capability: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the interval."""

    eta: float
    """The last coefficient at which all was well; 0 if none was."""
    readings: tuple[Reading, ...]
    """What was measured, outwards and then between."""
    reason: str | None
    """Why it ends there; None where nothing was wrong as far as was looked."""


def objection(reading: Reading, best: Reading | None) -> str | None:
    """Return what is wrong at a coefficient, or None.

    `best` has the largest effect of those further in. The effect turns back only where its whole
    interval falls short of that: differences that the prompts cannot tell apart are none.
    """
    at = format_eta(reading.eta)
    # Where the base itself is often malformed, what counts is how much is added.
    allowed = (
        MALFORMED if reading.base_malformed <= MALFORMED else reading.base_malformed + MALFORMED
    )
    if reading.malformed > allowed:
        return f"{reading.malformed:.1%} of the answers are malformed at {at}"
    if reading.capability is not None and reading.base_capability:
        kept = 1 + reading.capability.low / reading.base_capability
        if kept < CAPABILITY:
            return f"correct answers may fall to {max(0.0, kept):.0%} of the base's at {at}"
    sign = copysign(1.0, reading.eta)
    furthest = max(sign * reading.effect.low, sign * reading.effect.high)
    reached = 0.0 if best is None else sign * best.effect.value
    if furthest < reached:
        return f"the effect turns back at {at}"
    return None


def walk(measure: Callable[[float], Reading], *, limit: float, step: float) -> Side:
    """Walk from 0 towards `limit`, which may be negative, until something is wrong there.

    The end is then sought between the last two points, to a quarter of the step.
    """
    readings: list[Reading] = []
    good, best, reason = 0.0, None, None
    count = max(1, round(abs(limit) / step))
    for number in range(1, count + 1):
        reading = measure(limit * number / count)
        readings.append(reading)
        reason = objection(reading, best)
        if reason is not None:
            break
        good, best = reading.eta, _further(best, reading)
    if reason is None:
        return Side(good, tuple(readings), None)
    bad = readings[-1].eta
    for _ in range(_HALVINGS):
        reading = measure((good + bad) / 2)
        readings.append(reading)
        found = objection(reading, best)
        if found is None:
            good, best = reading.eta, _further(best, reading)
        else:
            bad, reason = reading.eta, found
    return Side(good, tuple(readings), reason)


def _further(best: Reading | None, reading: Reading) -> Reading:
    sign = copysign(1.0, reading.eta)
    if best is None or sign * reading.effect.value > sign * best.effect.value:
        return reading
    return best
