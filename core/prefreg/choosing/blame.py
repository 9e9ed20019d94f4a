"""Blame: leave each term of a composition out in turn, and say which one costs what."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import Metric, pair_up
from prefreg.evaluation.statistics import Estimate, bootstrap, holm, ratio_change
from prefreg.progress import Progress
from prefreg.registry import Access
from prefreg.terms import Term

_LEVEL = 0.05
_OF_ANSWERS = ("kl", "correct", "malformed", "refuses_safe", "refuses_unsafe", "length")


@dataclass(frozen=True, slots=True)
class Share:
    """What one term does to one figure in the whole composition."""

    term: str
    figure: str
    whole: float
    without: float
    change: Estimate
    """Whole − without, over the same prompts and the same chance."""
    p: float
    """Of so large a change if there were none; adjusted after Holm over all terms and figures."""

    @property
    def told(self) -> bool:
        """Whether prompts can tell it from nothing."""
        return self.p < _LEVEL

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return asdict(self) | {"told": self.told}


@dataclass(frozen=True, slots=True)
class Blame:
    """Every term with what it does."""

    formula: str
    shares: tuple[Share, ...]
    missing: dict[str, str]
    prompts: int

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "formula": self.formula,
            "shares": [each.to_json() for each in self.shares],
            "missing": self.missing,
            "prompts": self.prompts,
        }


def find_blame(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Blame:
    """Measure a composition, and again without each of its terms.

    Raises:
        UsageError: There are fewer than two terms.
    """
    if len(terms) < 2:
        raise UsageError("--blame leaves one term out in turn: give two or more.")
    evaluator = open_dials(access, terms, request, progress)
    evaluator.coupled = True
    whole = evaluator.at(evaluator.etas)
    shares: list[Share] = []
    missing: dict[str, str] = {}
    for metric in _metrics(evaluator, missing):
        for place, term in enumerate(evaluator.terms):
            others = [0.0 if each == place else eta for each, eta in enumerate(evaluator.etas)]
            try:
                shares.append(_share(metric, str(term.record), whole, evaluator.at(others)))
            except DataError as error:
                missing[metric.name] = str(error).rstrip(".")
                break
    adjusted = holm({(each.term, each.figure): each.p for each in shares})
    return Blame(
        formula=whole.formula,
        shares=tuple(
            Share(
                each.term,
                each.figure,
                each.whole,
                each.without,
                each.change,
                adjusted[each.term, each.figure],
            )
            for each in shares
        ),
        missing=missing,
        prompts=len(evaluator.asked),
    )


def _metrics(evaluator: Evaluator, missing: dict[str, str]) -> list[Metric]:
    """Return what each axis moves, and what answers are."""
    found = []
    for axis in evaluator.axes:
        effect = evaluator.effect(axis)
        if effect is None:
            missing[axis] = "it has no metric for these prompts, and no held-out pairs"
        else:
            found.append(effect)
    of_answers = evaluator.answer_metrics()
    return [*found, *(of_answers[name] for name in _OF_ANSWERS)]


def _share(metric: Metric, term: str, whole: Candidate, without: Candidate) -> Share:
    after, before = metric.read(whole), metric.read(without)
    table, groups = pair_up(after, before, metric.groups)
    if not len(table):
        raise DataError(metric.missing)
    found = bootstrap(table, groups, ratio_change)
    total = table.sum(0)
    return Share(
        term,
        metric.name,
        float(total[0] / total[1]),
        float(total[2] / total[3]),
        found.estimate,
        found.p,
    )
