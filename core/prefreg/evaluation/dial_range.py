"""How far a dial may be turned: the connected interval around 0 in which it keeps its promise."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import copysign
from typing import Any

from prefreg.composition.resolve import RANGE
from prefreg.errors import DataError
from prefreg.evaluation.evaluation_request import EvaluationRequest, Reach
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import Metric
from prefreg.evaluation.statistics import Estimate
from prefreg.progress import Progress
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term, brief_eta

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

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold, outwards."""
        readings = sorted(self.readings, key=lambda each: abs(each.eta))
        return {"reason": self.reason, "readings": [asdict(each) for each in readings]}


def objection(reading: Reading, best: Reading | None) -> str | None:
    """Return what is wrong at a coefficient, or None.

    `best` has the largest effect of those further in. The effect turns back only where its whole
    interval falls short of that: differences that the prompts cannot tell apart are none.
    """
    at = brief_eta(reading.eta)
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
        return f"{brief_eta(self.below.eta)} to {brief_eta(self.above.eta)}"

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of a range, in a form that JSON can hold."""
        return {
            "low": self.below.eta,
            "high": self.above.eta,
            "figure": self.figure,
            "below": self.below.to_json(),
            "above": self.above.to_json(),
            "unchecked": self.unchecked,
        }


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
    evaluator = open_dials(access, [term], request, progress)
    if store:
        access.writing().close()  # known before minutes of work
    record = evaluator.terms[0].record
    effect = evaluator.effect(record.axis)
    if effect is None:
        missing = evaluator.missing
        why = missing.get(f"{record.axis}.margin") or missing.get(record.axis) or "there are none"
        raise DataError(
            f"Nothing measures {record.axis}: it has no metric for these prompts, and of its "
            f"held-out pairs: {why}."
        )

    def measure(eta: float) -> Reading:
        return _read(evaluator, effect, eta)

    below, above = (
        walk(measure, limit=sign * reach.limit, step=reach.step) for sign in (-1.0, 1.0)
    )
    unchecked = None
    if all(each.capability is None for each in (*below.readings, *above.readings)):
        unchecked = "no answer is one whose truth can be checked"
    protocol = (
        f"{evaluator.describe_prompts()}, temperature 1, seed {request.seed}; effect "
        f"{effect.name}; up to {brief_eta(reach.limit)} by {brief_eta(reach.step)}"
    )
    found = DialRange(record, effect.name, below, above, protocol, unchecked)
    if store:
        with access.writing() as opened:
            opened.measure(record.axis, record.number, RANGE, found.to_json(), protocol)
    return found


def _read(evaluator: Evaluator, moved: Metric, eta: float) -> Reading:
    of_answers = evaluator.answer_metrics()
    figures = evaluator.figures(
        evaluator.along(0, eta), moved, of_answers["malformed"], of_answers["correct"]
    )
    effect, malformed = figures.find(moved.name), figures.find("malformed")
    if effect is None or effect.change is None or malformed is None or malformed.base is None:
        missing = figures.missing
        why = missing.get(moved.name) or missing.get("malformed") or "nothing was counted"
        axis = evaluator.terms[0].record.axis
        raise DataError(f"The effect of {axis} at {brief_eta(eta)} was not measured: {why}")
    correct = figures.find("correct")
    return Reading(
        eta=eta,
        effect=effect.change,
        malformed=malformed.value.value,
        base_malformed=malformed.base.value,
        capability=correct.change if correct else None,
        base_capability=correct.base.value if correct and correct.base else None,
    )
