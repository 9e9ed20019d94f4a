"""Find the range of a dial, and keep it with its version."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.geometry.reach import Reading, Side, walk
from prefreg.flows.access import Access
from prefreg.flows.geometry.board import Board, open_board
from prefreg.flows.geometry.kept import RANGE
from prefreg.flows.measuring.evaluator import Progress
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.terms import Term, format_eta


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a dial was looked at, and how finely."""

    limit: float = 4.0
    step: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.step <= self.limit <= 64:
            raise UsageError(
                f"A range is sought in steps of up to the limit, at most 64: got step {self.step} "
                f"and limit {self.limit}."
            )


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
    """Turn one dial both ways until something is wrong, and keep what was found.

    Raises:
        RegistryError: There is no such version, or the registry cannot be written.
        DataError: Nothing measures the axis, or there are too few prompts.
    """
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
