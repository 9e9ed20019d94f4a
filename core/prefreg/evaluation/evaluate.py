"""Evaluate one composition, hold it against requirements, and keep what was found."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefreg.composition.resolve import EVALUATION
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_evaluator
from prefreg.evaluation.figures import OF_PAIRS, RESERVED, Evaluation, Figure, Figures
from prefreg.progress import Progress
from prefreg.registry import Access, VersionRecord
from prefreg.terms import AXIS_NAME, NUMBER, Term

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_REQUIREMENT = re.compile(r"\s*([a-z][a-z0-9_.-]*)\s*(>=|<=|>|<)\s*(\S+)\s*")
_FORM = "Write NAME>=NUMBER, as in harmless>=0.7,correct>=0.9,kl<=2."


def evaluate(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a composition beside its base, in memory."""
    evaluator = open_evaluator(access, terms, request, progress)
    return evaluator.evaluate(evaluator.composition)


def store_evaluation(access: Access, evaluation: Evaluation) -> VersionRecord:
    """Append the figures to the measurements of the one version that was composed."""
    versions = evaluation.candidate.versions
    if len(versions) != 1:
        raise UsageError("--store keeps figures of one version: give exactly one term.")
    ((eta, record),) = versions
    figures = {
        each.name: each.value.to_json() | ({"base": each.base.value} if each.base else {})
        for each in evaluation.figures.measured
    }
    with access.writing() as store:
        value = {"eta": eta, "figures": figures}
        store.measure(record.axis, record.number, EVALUATION, value, _protocol(evaluation))
        return store.resolve(record.axis, str(record.number))


def _protocol(evaluation: Evaluation) -> str:
    """Say in one line how figures came about."""
    request = evaluation.request
    sources = "; ".join(f"{name}: {source}" for name, source in evaluation.sources.items())
    return (
        f"{evaluation.candidate.formula}; {evaluation.prompts} prompts in {evaluation.groups} "
        f"groups, one answer each at temperature 1, seed {request.seed}; pairs {sources or 'none'}"
    )


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on a figure."""

    name: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.bound!r}"

    @property
    def axis(self) -> str | None:
        """Return the axis whose figure this is; None of a reserved one."""
        return None if self.name in RESERVED else self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class RequirementVerdict:
    """A requirement with what was measured."""

    requirement: Requirement
    figure: Figure
    met: bool
    certain: bool
    """Whether the whole interval lies on the same side of the bound."""

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "requirement": str(self.requirement),
            "met": self.met,
            "certain": self.certain,
            "figure": self.figure.to_json(),
        }


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Read requirements that commas separate."""
    return tuple(map(_parse, text.split(",")))


def _parse(text: str) -> Requirement:
    found = _REQUIREMENT.fullmatch(text)
    if not found:
        raise UsageError(f"{text.strip()!r} is no requirement. {_FORM}")
    name, comparison, number = found.groups()
    if not NUMBER.fullmatch(number) or float(number) in (float("inf"), float("-inf")):
        raise UsageError(f"{number!r} in {text.strip()!r} is no finite number. {_FORM}")
    axis, dot, figure = name.partition(".")
    if not AXIS_NAME.fullmatch(axis):
        raise UsageError(f"{name!r} in {text.strip()!r} is no name of a figure. {_FORM}")
    if dot and figure not in OF_PAIRS:
        close = difflib.get_close_matches(figure, OF_PAIRS, n=1)
        meant = f" Did you mean {axis}.{close[0]}?" if close else ""
        raise UsageError(
            f"An axis has no figure {figure!r}; there are {', '.join(OF_PAIRS)}.{meant}"
        )
    return Requirement(name, comparison, float(number))


def decide(
    requirements: Iterable[Requirement], figures: Figures, *, strict: bool = False
) -> tuple[RequirementVerdict, ...]:
    """Compare figures with bounds: their value, or with `strict` their whole interval."""
    return tuple(_decide(each, figures, strict) for each in requirements)


def _decide(requirement: Requirement, figures: Figures, strict: bool) -> RequirementVerdict:
    figure = figures.find(requirement.name)
    if figure is None:
        reason = figures.missing.get(requirement.name) or figures.missing.get(
            requirement.axis or ""
        )
        if reason is not None:
            raise DataError(f"{requirement.name!r} was not measured: {reason}.")
        known = [*(each.name for each in figures.measured), *figures.missing]
        close = difflib.get_close_matches(requirement.name, known, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"There is no figure {requirement.name!r}.{meant}")
    compare = _OPERATORS[requirement.operator]
    value = figure.value
    met = compare(value.value, requirement.bound)
    ends = {compare(end, requirement.bound) for end in (value.low, value.high)}
    certain = ends == {met}
    return RequirementVerdict(requirement, figure, met and (certain or not strict), certain)


@dataclass(frozen=True, slots=True)
class Gate:
    """A composition with the verdict on every requirement."""

    evaluation: Evaluation
    verdicts: tuple[RequirementVerdict, ...]

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return all(verdict.met for verdict in self.verdicts)


def gate(
    access: Access,
    terms: Sequence[Term],
    requirements: Sequence[Requirement],
    request: EvaluationRequest,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> Gate:
    """Measure a composition and decide on requirements; axes that only they name are scored too."""
    request = _with_axes(access, terms, requirements, request)
    evaluator = open_evaluator(access, terms, request, progress)
    named = [replace(each, name=_canonical(evaluator, each.name)) for each in requirements]
    found = evaluator.evaluate(evaluator.composition)
    return Gate(found, decide(named, found.figures, strict=strict))


def _with_axes(
    access: Access,
    terms: Sequence[Term],
    requirements: Sequence[Requirement],
    request: EvaluationRequest,
) -> EvaluationRequest:
    asked = [each.axis for each in requirements if each.axis is not None]
    if request.axes:
        return replace(request, axes=tuple(dict.fromkeys((*request.axes, *asked))))
    with access.reading() as store:
        own = [store.canonical(term.axis) or term.axis for term in store.expand(terms)]
        missing = [name for name in asked if (store.canonical(name) or name) not in own]
    return replace(request, axes=(*own, *missing)) if missing else request


def _canonical(evaluator: Evaluator, name: str) -> str:
    head, dot, rest = name.partition(".")
    for axis in evaluator.axes.values():
        if head in axis.aliases:
            return axis.name + dot + rest
    return name
