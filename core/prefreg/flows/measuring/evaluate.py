"""Evaluate one composition, hold it against requirements, and keep what was found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefreg.evaluation.figures import Figure
from prefreg.evaluation.requirements import Requirement, Verdict, decide
from prefreg.flows.access import Access
from prefreg.flows.measuring.evaluator import Evaluation, Evaluator, Progress, open_evaluator
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.registry import VersionRecord
from prefreg.terms import Term, format_eta

MEASUREMENT = "evaluation"
"""The kind under which `--store` keeps figures with a version."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A composition with the verdict on every requirement."""

    evaluation: Evaluation
    verdicts: tuple[Verdict, ...]

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return all(verdict.met for verdict in self.verdicts)


def evaluate(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a composition beside its base, in memory.

    Raises:
        UsageError: A term or an option is malformed.
        AxisError: An axis of `axes` is not installed.
        RegistryError: A term has no version on the base.
        DataError: A metric failed on an answer, or a file cannot be read.
        BaseModelError: A prompt does not fit the model's context.
    """
    evaluator = open_evaluator(access, terms, request, progress)
    return evaluator.evaluate(evaluator.candidate(terms))


def gate(
    access: Access,
    terms: Sequence[Term],
    requirements: Sequence[Requirement],
    request: EvaluationRequest,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> Gate:
    """Measure a composition and decide on requirements; axes that only they name are scored too.

    Raises:
        UsageError: A requirement names no figure.
        DataError: A figure was not measured.
    """
    wanted = open_evaluator(
        access, terms, _with_axes(access, terms, requirements, request), progress
    )
    named = [replace(each, name=_canonical(wanted, each.name)) for each in requirements]
    found = wanted.evaluate(wanted.candidate(terms))
    return Gate(found, decide(named, found.figures, strict=strict))


def _with_axes(
    access: Access,
    terms: Sequence[Term],
    requirements: Sequence[Requirement],
    request: EvaluationRequest,
) -> EvaluationRequest:
    from prefreg.plugins import load_axes

    asked = [each.axis for each in requirements if each.axis is not None]
    if request.axes:
        return replace(request, axes=tuple(dict.fromkeys((*request.axes, *asked))))
    catalog = load_axes()
    installed = {name for found in catalog.axes for name in (found.axis.name, *found.axis.aliases)}
    with access.reading() as store:
        own = [store.canonical(term.axis) or term.axis for term in terms]
        missing = [name for name in asked if (store.canonical(name) or name) not in own]
    if not missing:
        return request
    # An axis that is only among the terms may be one that is not installed.
    return replace(request, axes=tuple([name for name in own if name in installed] + missing))


def _canonical(evaluator: Evaluator, name: str) -> str:
    head, dot, rest = name.partition(".")
    for axis in evaluator.axes.values():
        if head in axis.aliases:
            return axis.name + dot + rest
    return name


def store_evaluation(access: Access, evaluation: Evaluation) -> VersionRecord:
    """Append the figures to the measurements of the one version that was composed.

    Raises:
        UsageError: The composition is not of exactly one version.
        RegistryError: The registry cannot be written.
    """
    from prefreg.errors import UsageError

    versions = evaluation.candidate.versions
    if len(versions) != 1:
        raise UsageError("--store keeps figures of one version: give exactly one term.")
    ((eta, record),) = versions
    value = {
        "eta": eta,
        "figures": {each.name: _kept(each) for each in evaluation.figures.measured},
    }
    with access.changing() as store:
        store.measure(record.axis, record.number, MEASUREMENT, value, describe_protocol(evaluation))
        return store.resolve(record.axis, str(record.number))


def describe_protocol(evaluation: Evaluation) -> str:
    """Say in one line how figures came about."""
    request = evaluation.request
    sources = "; ".join(f"{name}: {source}" for name, source in evaluation.sources.items())
    return (
        f"{evaluation.candidate.formula}; {evaluation.prompts} prompts in {evaluation.groups} "
        f"groups, one answer each at temperature 1, seed {request.seed}; pairs {sources or 'none'}"
    )


def figure_view(figure: Figure) -> dict[str, Any]:
    """Return a figure in a form that JSON can hold."""
    return asdict(figure)


def evaluation_view(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation in a form that JSON can hold."""
    candidate = evaluation.candidate
    return {
        "formula": candidate.formula,
        "terms": [
            {"axis": record.axis, "version": record.number, "eta": eta, "sha256": record.sha256}
            for eta, record in candidate.versions
        ],
        "base": str(candidate.base),
        "composition": candidate.key,
        "prompts": evaluation.prompts,
        "groups": evaluation.groups,
        "seed": evaluation.request.seed,
        "pairs": dict(evaluation.sources),
        "interval": INTERVAL,
        "cached": evaluation.cached,
        "figures": [figure_view(each) for each in evaluation.figures.measured],
        "missing": dict(evaluation.figures.missing),
    }


INTERVAL = "95 %, over groups of prompts, for this φ"


def _kept(figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = {
        "value": figure.value.value,
        "low": figure.value.low,
        "high": figure.value.high,
    }
    if figure.base is not None:
        found["base"] = figure.base.value
    return found


def describe_terms(terms: Sequence[Term]) -> str:
    """Write terms as they are given on the command line."""
    return " ".join(f"{term.axis}:{format_eta(term.eta)}" for term in terms) or "base"
