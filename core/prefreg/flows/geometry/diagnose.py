"""Measure a composition and its dials one by one, and name what is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign
from typing import Any

import numpy as np

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.geometry.symptoms import (
    Finding,
    Shares,
    Strength,
    find_incoherence,
    find_refusals,
    find_weakness,
)
from prefreg.flows.access import Access
from prefreg.flows.geometry.board import Board, open_board
from prefreg.flows.geometry.kept import range_warnings
from prefreg.flows.measuring.candidates import Candidate
from prefreg.flows.measuring.evaluator import Progress
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.terms import Term

_FURTHER = 2.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found of a composition; no finding means that nothing is wrong."""

    formula: str
    findings: tuple[Finding, ...]
    strengths: tuple[Strength, ...]
    refusals: Shares | None
    malformed: Shares
    unmeasured: dict[str, str]
    prompts: int


def diagnose(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure a composition beside the base and each dial alone.

    Raises:
        UsageError: There are no terms, or one is at 0.
        RegistryError: A term has no version on the base.
        DataError: There is nothing to ask.
    """
    if not terms:
        raise UsageError("Give at least one TERM, as in helpful:1.")
    board = open_board(access, terms, request, progress)
    unmeasured: dict[str, str] = {}
    strengths = []
    for place in range(len(board.terms)):
        try:
            strengths.append(_strength(board, place))
        except DataError as error:
            unmeasured[str(board.terms[place].record)] = str(error).rstrip(".")
    etas = {str(term.record): term.eta for term in board.terms}
    malformed, refusals = _shares(board, "malformed"), None
    safe = [each.safe is True for each in board.evaluator.asked]
    if any(safe):
        refusals = _shares(board, "refuses", safe)
    else:
        unmeasured["refusals"] = "no prompt is known to be safe: give prompts with a kind"
    found: list[Finding | None] = [find_weakness(each) for each in strengths]
    if refusals is not None:
        found.append(find_refusals(refusals, etas))
    found.append(find_incoherence(malformed, etas, range_warnings(board.terms)))
    return Diagnosis(
        formula=board.at(board.etas).formula,
        findings=tuple(finding for finding in found if finding),
        strengths=tuple(strengths),
        refusals=refusals,
        malformed=malformed,
        unmeasured=unmeasured,
        prompts=len(board.evaluator.asked),
    )


def _strength(board: Board, place: int) -> Strength:
    """Measure how far a dial moves its own held-out margin.

    Raises:
        DataError: Its axis has no held-out pairs here.
    """
    term = board.terms[place]
    axis, sign = term.record.axis, copysign(1.0, term.eta)
    if axis not in board.evaluator.pairs:
        raise DataError(board.evaluator.missing.get(f"{axis}.margin", "it has no held-out pairs"))
    base = _margins(board, axis, board.along(place, 0.0))
    deviation = float(base.std(ddof=1)) if len(base) > 1 else 0.0
    if not deviation:
        raise DataError("its margin does not vary on the base")

    def moved(candidate: Candidate) -> float:
        change = (_margins(board, axis, candidate) - base).mean()
        return float(sign * change / deviation)

    further = sign * max(1.0, _FURTHER * abs(term.eta))
    others = {
        str(other.record): moved(board.along(number, other.eta))
        for number, other in enumerate(board.terms)
        if number != place
    }
    against = min(others.items(), key=lambda item: item[1]) if others else None
    return Strength(
        dial=str(term.record),
        eta=term.eta,
        cast=moved(board.at(board.etas)),
        alone=moved(board.along(place, term.eta)),
        further=moved(board.along(place, further)),
        further_eta=further,
        against=against,
        accuracies=_accuracies(term.record),
    )


def _margins(board: Board, axis: str, candidate: Candidate) -> Any:
    found = board.evaluator.pair_scores(candidate, axis)
    return np.array(found.chosen) - np.array(found.rejected)


def _accuracies(record: VersionRecord) -> tuple[float, float] | None:
    poles = record.metadata.get("poles") or {}
    try:
        return (
            float(poles["positive"]["report"]["accuracy"]),
            float(poles["negative"]["report"]["accuracy"]),
        )
    except (KeyError, TypeError):
        return None  # imported, or from a positive pole alone


def _shares(board: Board, what: str, counted: Sequence[bool] | None = None) -> Shares:
    def share(candidate: Candidate) -> float:
        judged = board.evaluator.judge(board.evaluator.answers(candidate))
        values = [
            float(getattr(each, what))
            for place, each in enumerate(judged)
            if counted is None or counted[place]
        ]
        return float(np.mean(values))

    names = [str(term.record) for term in board.terms]
    return Shares(
        base=share(board.along(0, 0.0)),
        cast=share(board.at(board.etas)),
        alone={
            name: share(board.along(place, term.eta))
            for place, (name, term) in enumerate(zip(names, board.terms, strict=True))
        },
        at_pole={
            name: share(board.along(place, pole_eta(term.record, copysign(1.0, term.eta))))
            for place, (name, term) in enumerate(zip(names, board.terms, strict=True))
        }
        if what == "refuses"
        else {},
    )


def pole_eta(record: VersionRecord, sign: float) -> float:
    """Return the coefficient at which θ_base + η·φ comes closest to the pole on this side.

    It is the projection of φ₊ or φ₋ on φ, from the norms and the angle that the version's record
    has; half of φ where it has none.
    """
    geometry = record.metadata.get("geometry") or {}
    keys = ("norm", "positive_norm", "negative_norm", "cosine_poles")
    values = [geometry.get(key) for key in keys]
    if any(not isinstance(value, int | float) for value in values) or not values[0]:
        return sign / 2
    whole, positive, negative, cosine = map(float, values)  # type: ignore[arg-type]
    own = positive if sign > 0 else negative
    return sign * (own**2 - positive * negative * cosine) / whole**2
