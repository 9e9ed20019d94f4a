"""What vectors do to each other in what the model says: both measurements that load it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefreg.flows.access import Access
from prefreg.flows.geometry.board import open_board
from prefreg.flows.geometry.functional import Functional, functional_view, measure_functional
from prefreg.flows.geometry.leakage import Leakage, Of, leakage_view, measure_leakage
from prefreg.flows.measuring.evaluator import Progress
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.flows.resolve import ResolvedTerm
from prefreg.terms import Term


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
    """Measure functional geometry, the leakage matrix, or both, with the base loaded once.

    Raises:
        UsageError: A term is at 0, or an option is malformed.
        RegistryError: A term has no version on the base, or several bases fit.
        DataError: Nothing can be measured, or there are too few prompts.
    """
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
