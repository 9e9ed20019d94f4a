"""Measure compositions: figures with intervals, and gates on them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prefreg.cli.options import AT, TERM, Common, command, table
from prefreg.cli.progress import stage_progress
from prefreg.errors import UsageError
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.evaluation.figures import Figure
    from prefreg.evaluation.statistics import Estimate
    from prefreg.flows.measuring.evaluate import Gate
    from prefreg.flows.measuring.evaluator import Evaluation
    from prefreg.flows.measuring.request import EvaluationRequest

NOT_MET = 3
Function = TypeVar("Function", bound=Callable[..., Any])


def measuring_options(function: Function) -> Function:
    """Add the options of every command that measures dials."""
    options = (
        click.option("--base", help="Base model.  [default: the one base that has every term]"),
        click.option(
            "--prompts",
            type=click.IntRange(1),
            default=400,
            show_default=True,
            help="At most so many prompts, and pairs of each axis.",
        ),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option(
            "--split",
            type=click.Choice(["test", "dev"]),
            default="test",
            show_default=True,
            help="Of the bundled model's data.",
        ),
        click.option(
            "--data",
            multiple=True,
            metavar="[AXIS=]FILE",
            help="Held-out pairs.  [default: those that the version's run held out]",
        ),
        click.option(
            "--prompts-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Prompts to ask, one JSON object a line.  [default: those of the pairs]",
        ),
        click.option("--max-new-tokens", type=click.IntRange(1), default=96, show_default=True),
        AT,
    )
    for option in reversed(options):
        function = option(function)
    return function


def evaluation_options(function: Function) -> Function:
    """Add the options of every command that measures compositions."""
    options = (
        click.option(
            "--axes", metavar="NAMES", help="Axes to score, as in a,b.  [default: the terms']"
        ),
        click.option(
            "--retention",
            multiple=True,
            metavar="FILE|pocket",
            help="Multiple-choice questions, or what the bundled model shall remember.",
        ),
        click.option("--tasks", metavar="NAMES", help="Tasks of lm-eval, as in piqa,openbookqa."),
        click.option("--task-limit", type=click.IntRange(1), help="Documents of each task."),
        click.option(
            "--task-path",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="A folder of further tasks.",
        ),
        click.option(
            "--reward-model",
            "reward_models",
            multiple=True,
            metavar="ID",
            help="A sequence classifier that scores answers: a folder or a hub id.",
        ),
        click.option("--judge", metavar="URL", help="An endpoint of OpenAI's protocol."),
        click.option("--judge-model", default="default", show_default=True),
        click.option(
            "--judge-timeout",
            type=click.FloatRange(0, min_open=True),
            default=60.0,
            show_default=True,
            help="Seconds for each question.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return measuring_options(function)


def make_request(
    axes: str | None = None, tasks: str | None = None, **options: Any
) -> "EvaluationRequest":
    """Make the request of the options that commands which measure have."""
    from prefreg.flows.measuring.request import EvaluationRequest

    return EvaluationRequest(axes=_names(axes), tasks=_names(tasks), **options)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@command("eval")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@evaluation_options
@click.option("--store", is_flag=True, help="Keep the figures with the version of the one term.")
def evaluate(
    common: Common,
    terms: tuple[Term, ...],
    axes: str | None,
    tasks: str | None,
    store: bool,
    **options: Any,
) -> None:
    """Measure what a composition does and what it breaks, beside the base.

    Nothing is written but the cache, from which the same question is answered at once.
    """
    _require_terms(terms)
    request = make_request(axes, tasks, **options)
    registry = common.open_registry()
    if store and len(terms) != 1:
        raise UsageError("--store keeps figures of one version: give exactly one term.")
    with stage_progress(common) as progress:
        found = registry.evaluate(terms, request, progress=progress)
    if store:
        from prefreg.flows.measuring.evaluate import store_evaluation

        record = store_evaluation(registry.access, found)
        common.note(f"Kept with {record}.")
    from prefreg.flows.measuring.evaluate import evaluation_view

    common.emit("eval", evaluation_view(found), describe_evaluation(found), asked=True)


@command("gate")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@click.option(
    "--require",
    required=True,
    metavar="BOUNDS",
    help='What must hold, as in "harmless>=0.7,correct>=0.9,kl<=2".',
)
@click.option("--strict", is_flag=True, help="The whole interval must lie beyond the bound.")
@evaluation_options
def gate(
    common: Common,
    terms: tuple[Term, ...],
    require: str,
    strict: bool,
    axes: str | None,
    tasks: str | None,
    **options: Any,
) -> None:
    """Measure a composition and exit with 3 unless every bound holds.

    A bound is on AXIS (its own metric), AXIS.accuracy, AXIS.margin, correct, kl, length,
    malformed, refuses_safe, refuses_unsafe or repetition.
    """
    from prefreg.evaluation.requirements import parse_requirements
    from prefreg.flows.measuring.evaluate import evaluation_view, figure_view

    _require_terms(terms)
    wanted = parse_requirements(require)
    request = make_request(axes, tasks, **options)
    registry = common.open_registry()
    with stage_progress(common) as progress:
        found = registry.gate(terms, wanted, request, strict=strict, progress=progress)
    data = {
        "met": found.met,
        "strict": strict,
        "requirements": [
            {
                "requirement": str(verdict.requirement),
                "met": verdict.met,
                "certain": verdict.certain,
                "figure": figure_view(verdict.figure),
            }
            for verdict in found.verdicts
        ],
        "evaluation": evaluation_view(found.evaluation),
    }
    common.emit("gate", data, describe_gate(found), asked=True)
    if not found.met:
        click.get_current_context().exit(NOT_MET)


def _require_terms(terms: tuple[Term, ...]) -> None:
    if not terms:
        raise UsageError("Give at least one TERM, as in helpful:1.")


def describe_evaluation(found: "Evaluation") -> str:
    """Write the figures as a table, with what was not measured."""
    rows = [_row(figure) for figure in found.figures.measured]
    headers = ("FIGURE", "UNIT", "BASE", "COMPOSED", "CHANGE", "P", "WORDS")
    lines = [found.candidate.formula, "", table(headers, rows), ""]
    lines += [f"{name} was not measured: {why}." for name, why in found.figures.missing.items()]
    lines.append(
        f"{found.prompts} prompts in {found.groups} groups. In brackets, 95 % intervals over "
        "groups of prompts, for this φ:\nanother training seed is another φ. P is adjusted for "
        "the number of figures (Holm)."
    )
    return "\n".join(lines)


def describe_gate(found: "Gate") -> str:
    """Write every requirement with its value, interval and verdict."""
    rows = [
        (
            str(verdict.requirement),
            show(verdict.figure.value),
            ("met" if verdict.met else "NOT MET")
            + ("" if verdict.certain else ", but the interval holds the bound"),
        )
        for verdict in found.verdicts
    ]
    said = "The gate is met." if found.met else "The gate is not met."
    formula = found.evaluation.candidate.formula
    return "\n".join([formula, "", table(("REQUIRED", "MEASURED", "VERDICT"), rows), "", said])


def show(estimate: "Estimate | None", *, signed: bool = False) -> str:
    """Write an estimate with its interval, to three digits."""
    if estimate is None:
        return "-"
    sign = "+" if signed else ""
    value, low, high = estimate.value, estimate.low, estimate.high
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _row(figure: "Figure") -> tuple[str, ...]:
    words = "-"
    if figure.words is not None:
        base = "-" if figure.base_words is None else f"{figure.base_words:.1f}"
        words = f"{base} → {figure.words:.1f}"
    return (
        figure.name,
        figure.unit,
        show(figure.base),
        show(figure.value),
        "-" if figure.base is None else show(figure.change, signed=True),
        "-" if figure.p is None else f"{figure.p:.4f}",
        words,
    )


COMMANDS = (evaluate, gate)
__all__ = [
    "COMMANDS",
    "describe_evaluation",
    "evaluation_options",
    "make_request",
    "measuring_options",
    "show",
]
