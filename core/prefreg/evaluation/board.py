"""Stored vectors on a loaded base, with everything that they are measured by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prefreg.composition.resolve import ResolvedTerm, base_spec
from prefreg.errors import DataError
from prefreg.evaluation.candidates import Candidate, find_vectors
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_evaluator
from prefreg.evaluation.figures import Figures, Sheet, add_metric, add_pairs, add_reserved
from prefreg.progress import Progress
from prefreg.registry.access import Access
from prefreg.terms import Term

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Board:
    """Dials of stored versions, in canonical order, and what measures them."""

    evaluator: Evaluator
    terms: tuple[ResolvedTerm, ...]

    @property
    def etas(self) -> list[float]:
        """The coefficients that were asked for."""
        return [term.eta for term in self.terms]

    def at(self, etas: Sequence[float]) -> Candidate:
        """Return the composition at these coefficients, one a dial."""
        records = [term.record for term in self.terms]
        return Candidate(
            self.evaluator.base,
            tuple((eta, record) for eta, record in zip(etas, records, strict=True) if eta),
        )

    def along(self, place: int, eta: float) -> Candidate:
        """Return the composition of one dial alone."""
        return self.at([eta if each == place else 0.0 for each in range(len(self.terms))])

    def turn(self, etas: Sequence[float]) -> "PreTrainedModel":
        """Return the model with these coefficients."""
        return self.evaluator.bench.model(self.at(etas))

    def scores(self, axis: str, candidate: Candidate) -> list[float | None]:
        """Score the answers of a composition along an axis that has a metric."""
        return self.evaluator.scores(self.evaluator.axes[axis], self.evaluator.answers(candidate))

    def has_metric(self, axis: str) -> bool:
        """Whether an axis has a metric that applies to answers of the base."""
        found = self.evaluator.axes.get(axis)
        if found is None or found.metric is None:
            return False
        return any(score is not None for score in self.scores(axis, self.along(0, 0.0)))

    def figures(self, candidate: Candidate, axis: str) -> Figures:
        """Measure answers, and the axis along itself: by its metric, or else by its margin."""
        sheet = Sheet.empty()
        evaluator, base = self.evaluator, self.at([0.0] * len(self.terms))
        answers = (evaluator.answers(base), evaluator.answers(candidate))
        judged = (evaluator.judge(answers[0]), evaluator.judge(answers[1]))
        if self.has_metric(axis):
            scores = (self.scores(axis, base), self.scores(axis, candidate))
            add_metric(sheet, axis, evaluator.asked, scores, judged)
        elif axis in evaluator.pairs:
            held = evaluator.pairs[axis]
            pairs = (evaluator.pair_scores(base, axis), evaluator.pair_scores(candidate, axis))
            add_pairs(sheet, axis, held.groups, *pairs)
        add_reserved(sheet, evaluator.asked, answers[1], judged)
        return sheet.finish()

    def effect_name(self, axis: str) -> str:
        """Return the figure that an axis moves: its metric, or else its margin."""
        if self.has_metric(axis):
            return axis
        if axis in self.evaluator.pairs:
            return f"{axis}.margin"
        why = self.evaluator.missing.get(f"{axis}.margin") or self.evaluator.missing.get(axis)
        raise DataError(
            f"Nothing measures {axis}: it has no metric for these prompts, and of its held-out "
            f"pairs: {why or 'there are none'}. Give pairs with --data {axis}=FILE."
        )


def open_board(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Board:
    """Find the vectors of terms, or the newest of every axis, and what measures them."""
    with access.reading() as store:
        base, found = find_vectors(store, terms, request.base, request.at)
    pinned = [Term(term.record.axis, term.eta, str(term.record.number)) for term in found]
    request = replace(request, base=request.base or base_spec(base))
    return Board(open_evaluator(access, pinned, request, progress), found)
