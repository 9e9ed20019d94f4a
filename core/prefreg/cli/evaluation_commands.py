"""Measure compositions: figures with intervals, and gates on them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prefreg.cli.options import AT, TERM, Common, command, table
from prefreg.cli.printing import stage_progress
from prefreg.errors import UsageError
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.evaluation.evaluate import Gate
    from prefreg.evaluation.evaluation_request import EvaluationRequest
    from prefreg.evaluation.evaluator import Evaluation
    from prefreg.evaluation.figures import Figure
    from prefreg.evaluation.paper.reproduce import Reproduced
    from prefreg.evaluation.statistics import Estimate
    from prefreg.evaluation.sweep import Cell, Sweep

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
    from prefreg.evaluation.evaluation_request import EvaluationRequest

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
        from prefreg.evaluation.evaluate import store_evaluation

        record = store_evaluation(registry.access, found)
        common.note(f"Kept with {record}.")
    from prefreg.evaluation.evaluate import evaluation_view

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
    from prefreg.evaluation.evaluate import evaluation_view, figure_view
    from prefreg.evaluation.requirements import parse_requirements

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


@command("sweep")
@click.argument("grid", nargs=-1, required=True, metavar="AXIS=FROM:TO:STEP|TERM...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("sweep"),
    show_default="sweep/",
    help="Folder for the table, the pictures and the report.",
)
@click.option("--overwrite", is_flag=True, help="Replace a folder that a sweep wrote.")
@evaluation_options
def sweep(
    common: Common,
    grid: tuple[str, ...],
    output: Path,
    overwrite: bool,
    axes: str | None,
    tasks: str | None,
    **options: Any,
) -> None:
    """Measure every setting of a grid, as in helpful=-1:1:0.5 harmless=-1,0,1 verbosity:0.5.

    After an interruption the same command goes on where it was.
    """
    from prefreg.evaluation.sweep import parse_grid, sweep_view

    wanted = parse_grid(grid)
    request = make_request(axes, tasks, **options)
    with stage_progress(common) as progress:
        found = common.open_registry().sweep(
            wanted, output, request, overwrite=overwrite, progress=progress
        )
    common.emit("sweep", sweep_view(found), _describe_sweep(found))


def _describe_sweep(found: "Sweep") -> str:
    from prefreg.evaluation.sweep import describe_recipe

    names = [*found.main_figures, *found.common(("kl", "correct", "malformed", "length"))]
    rows = [_sweep_row(cell, names) for cell in found.cells]
    headers = [*(axis.upper() for axis in found.axes), *(name.upper() for name in names)]
    seconds = found.seconds
    return "\n".join(
        [
            table(headers, rows),
            "",
            describe_recipe(found),
            f"Measured in {seconds['measuring']:.1f} s, of which {seconds['recomposing']:.2f} s "
            "went into recomposing.",
            f"The report is {found.folder / 'report.html'}.",
        ]
    )


def _sweep_row(cell: "Cell", names: list[str]) -> list[str]:
    figures = [cell.figure(name) for name in names]
    return [
        *(f"{eta:g}" for eta in cell.etas),
        *("-" if figure is None else show(figure.value) for figure in figures),
    ]


@command("reproduce")
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the vectors, the results and the pictures.  [default: reproduced/NAME]",
)
@click.option("--base", help="Base model.  [default: pocket]")
@click.option("--axes", metavar="NAMES", help="As in a,b.  [default: the experiment's]")
@click.option(
    "--seeds", default="0,1,2", show_default=True, help="Of the training: each is another φ."
)
@click.option(
    "--prompts",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="At most so many prompts, and pairs of each axis.",
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=96, show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PACK",
    help="A folder with prefs/AXIS/train.jsonl.gz and dev.jsonl.gz.  [default: each axis's source]",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many rows of an axis.")
@click.option("--preset", help="Training settings: paper or quick.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A training setting.")
@click.option("--lora", type=click.IntRange(1), metavar="RANK", help="Train adapters of this rank.")
@click.option("--accept-licence", is_flag=True, help="Use data that is not for commercial use.")
@click.option(
    "--reward-model",
    "reward_models",
    multiple=True,
    metavar="ID",
    help="A sequence classifier that scores answers: a folder or a hub id.",
)
@click.option(
    "--questions",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Multiple choice for retention.  [default: what the bundled model knows]",
)
@click.option(
    "--tasks", default="commonsense_qa", show_default=True, help="Of lm-eval, for commonsense."
)
@click.option("--task-limit", type=click.IntRange(1), help="Documents of each task.")
@click.option(
    "--task-path",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of further tasks.",
)
def reproduce(
    common: Common,
    name: str | None,
    output: Path | None,
    base: str | None,
    axes: str | None,
    seeds: str,
    tasks: str,
    **options: Any,
) -> None:
    """Repeat an experiment of the paper; without NAME, list them.

    Vectors are taken from the registry or trained into the folder, where the same command goes on
    after an interruption.
    """
    from prefreg.evaluation.paper.catalogue import EXPERIMENTS, find_experiment

    if name is None:
        common.emit("reproduce", [_entry(each) for each in EXPERIMENTS], _list(), asked=True)
        return
    find_experiment(name)
    from prefreg.checkpoints.bundled import DEFAULT_BASE
    from prefreg.evaluation.paper.run_folder import ReproduceRequest

    request = ReproduceRequest(
        name=name,
        output=output or Path("reproduced") / name,
        base=base or DEFAULT_BASE,
        axes=_experiment_names(axes or ""),
        seeds=_numbers(seeds),
        tasks=_experiment_names(tasks),
        **options,
    )
    with stage_progress(common) as progress:
        found = common.open_registry().reproduce(request, progress=progress, note=common.note)
    common.emit(
        "reproduce", found.results | {"folder": str(found.folder)}, _describe_reproduced(found)
    )


def _entry(experiment: Any) -> dict[str, Any]:
    from prefreg.evaluation.paper.catalogue import experiment_axes

    return {
        "name": experiment.name,
        "summary": experiment.summary,
        "paper": experiment.paper,
        "minutes": experiment.minutes,
        "axes": list(experiment_axes(experiment.name)),
    }


def _list() -> str:
    from prefreg.evaluation.paper.catalogue import EXPERIMENTS

    rows = [(each.name, each.paper, each.minutes, each.summary) for each in EXPERIMENTS]
    headers = ("NAME", "OF THE PAPER", "MINUTES", "WHAT IT SHOWS")
    return table(headers, rows) + "\n\nMinutes are on the bundled model and one core."


def _describe_reproduced(found: "Reproduced") -> str:
    lines = [found.findings.recipe]
    for each in found.findings.tables:
        lines += ["", each.title, "", table([head.upper() for head in each.headers], each.rows)]
    verdicts = {True: "held", False: "DID NOT HOLD", None: "not measured"}
    lines.append("")
    lines += [
        f"{verdicts[each.held]}: {each.text}: {each.figures}." for each in found.findings.claims
    ]
    lines += ["", *found.findings.notes] if found.findings.notes else []
    return "\n".join([*lines, "", f"Everything is in {found.folder}; begin with results.md."])


def _experiment_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _experiment_names(text))
    except ValueError:
        raise UsageError(f"--seeds {text!r}: write whole numbers, as in 0,1,2.") from None


COMMANDS = [evaluate, gate, sweep, reproduce]
