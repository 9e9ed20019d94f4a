"""How far a dial may be turned: the connected interval around 0 in which it keeps its promise."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import copysign
from typing import Any

from prefreg.composition.dial_ranges import RANGE
from prefreg.errors import DataError
from prefreg.evaluation.board import Board, open_board
from prefreg.evaluation.evaluation_request import EvaluationRequest, Reach
from prefreg.evaluation.statistics import Estimate
from prefreg.progress import Progress
from prefreg.registry import VersionRecord
from prefreg.registry.access import Access
from prefreg.terms import Term, format_eta

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


@dataclass(frozen=True, slots=True)
class DialRange:
    """The interval in which a dial keeps its promise."""

    record: VersionRecord
    figure: str
    """What its effect is."""
    below: Side
    above: Side
    protocol: str
    unchecked: str | None
    """Why no capability could be checked."""

    def __str__(self) -> str:
        return f"{format_eta(self.below.eta)} to {format_eta(self.above.eta)}"


def find_range(
    access: Access,
    term: Term,
    reach: Reach,
    request: EvaluationRequest,
    *,
    store: bool = True,
    progress: Progress | None = None,
) -> DialRange:
    """Turn one dial both ways until something is wrong, and keep what was found."""
    if store:
        access.changing().close()  # known before minutes of work
    board = open_board(access, [term], request, progress)
    record = board.terms[0].record
    name = board.effect_name(record.axis)

    def measure(eta: float) -> Reading:
        return _read(board, name, eta)

    below, above = (
        walk(measure, limit=sign * reach.limit, step=reach.step) for sign in (-1.0, 1.0)
    )
    unchecked = None
    if all(each.capability is None for each in (*below.readings, *above.readings)):
        unchecked = "no answer is one whose truth can be checked"
    asked = board.evaluator.asked
    protocol = (
        f"{len(asked)} prompts in {len({each.group for each in asked})} groups, temperature 1, "
        f"seed {request.seed}; effect {name}; up to {format_eta(reach.limit)} by "
        f"{format_eta(reach.step)}"
    )
    found = DialRange(record, name, below, above, protocol, unchecked)
    if store:
        with access.changing() as opened:
            opened.measure(record.axis, record.number, RANGE, range_value(found), protocol)
    return found


def _read(board: Board, name: str, eta: float) -> Reading:
    axis = board.terms[0].record.axis
    figures = board.figures(board.along(0, eta), axis)
    effect, malformed = figures.find(name), figures.find("malformed")
    if effect is None or effect.change is None or malformed is None or malformed.base is None:
        why = figures.missing.get(name) or figures.missing.get("malformed") or "nothing was counted"
        raise DataError(f"The effect of {axis} at {format_eta(eta)} was not measured: {why}")
    correct = figures.find("correct")
    return Reading(
        eta=eta,
        effect=effect.change,
        malformed=malformed.value.value,
        base_malformed=malformed.base.value,
        capability=correct.change if correct else None,
        base_capability=correct.base.value if correct and correct.base else None,
    )


def range_value(found: DialRange) -> dict[str, Any]:
    """Return what is kept of a range, in a form that JSON can hold."""
    return {
        "low": found.below.eta,
        "high": found.above.eta,
        "figure": found.figure,
        "below": _side_view(found.below),
        "above": _side_view(found.above),
        "unchecked": found.unchecked,
    }


def _side_view(side: Side) -> dict[str, Any]:
    return {"reason": side.reason, "readings": _sorted(side.readings)}


def _sorted(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    return [asdict(reading) for reading in sorted(readings, key=lambda each: abs(each.eta))]
