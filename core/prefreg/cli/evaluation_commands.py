"""Measure compositions: figures with intervals, gates, grids, the paper's experiments, the demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli import completing
from prefreg.cli.options import (
    FILE,
    GATE_NOT_MET,
    REFERENCE,
    TERM,
    Common,
    Reference,
    WholeNumber,
    command,
    request_options,
)
from prefreg.cli.printing import describe_missing, plural, progress_bars, show
from prefreg.cli.tables import heading, paragraph, table
from prefreg.errors import UsageError
from prefreg.terms import Term
from prefreg.wording import shorten

if TYPE_CHECKING:
    from prefreg.evaluation.axis_scores import AxisScores
    from prefreg.evaluation.demonstration import Demonstration
    from prefreg.evaluation.evaluate import Gate
    from prefreg.evaluation.figures import Evaluation, Figure
    from prefreg.evaluation.paper.catalogue import Experiment
    from prefreg.evaluation.paper.reproduce import Reproduced
    from prefreg.evaluation.sweep import Cell, Sweep

_measured = request_options(
    "EvaluationRequest",
    data={"metavar": "[AXIS=]FILE"},
    retention={"metavar": "FILE|pocket"},
)


@command("eval")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@_measured
@click.option("--store", is_flag=True, help="Keep the figures with the version of the one term.")
def evaluate(common: Common, terms: tuple[Term, ...], store: bool, **options: Any) -> None:
    """Measure what a composition does and what it breaks, beside the base.

    Nothing is written but the cache, from which the same question is answered at once.
    """
    _require_terms(terms)
    registry = common.open_registry()
    if store and len(terms) != 1:
        raise UsageError("--store keeps figures of one version: give exactly one term.")
    with progress_bars(common) as progress:
        found = registry.evaluate(terms, progress=progress, **options)
    if store:
        common.note(f"Kept with {registry.store_evaluation(found)}.")
    common.emit("eval", found.to_json(), _describe_evaluation(found), asked=True)


@command("score")
@click.argument("version", type=REFERENCE, metavar="AXIS[@V]")
@click.argument("file", type=FILE)
@request_options(
    "ScoreRequest",
    leave="axis reference file",
    plus={"metavar": "DIR"},
    minus={"metavar": "DIR"},
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.jsonl",
    help="Write every row with its rewards, in the order of its answers.",
)
@click.option("--overwrite", is_flag=True, help="Replace that file if it is there.")
def score(
    common: Common,
    version: Reference,
    file: Path,
    output: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Rank answers by an axis, which is a reward model: β·[log π₊(y|x) − log π₋(y|x)].

    A row of FILE has a `prompt` with `answer` or `answers`, or is a preference pair, or what
    `prefreg sft` reads. The poles are the base at ± φ/2, so that φ alone is needed.
    """
    from prefreg import ScoreRequest

    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} is there already: name another, or add --overwrite.")
    axis, reference = version
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.score(ScoreRequest(axis, file, reference, **options), progress=progress)
    if output is not None:
        found.write(output, overwrite=overwrite)
    common.emit("score", found.to_json(), _describe_scores(found, output), asked=True)


_SHOWN = 20
_BEGINNING = 60


def _describe_scores(found: "AxisScores", output: Path | None) -> str:
    rows = [
        (
            str(each.source.number),
            str(rank),
            f"{reward.value:+.3f}",
            f"{reward.per_token:+.4f}",
            text,
        )
        for each in found.rows[:_SHOWN]
        for rank, reward, text in sorted(
            zip(each.ranks, each.rewards, each.texts, strict=True), key=lambda item: item[0]
        )
    ]
    headers = ("ROW", "RANK", "REWARD", "A TOKEN", "ANSWER")
    cells = [(*row[:-1], shorten(row[-1], _BEGINNING)) for row in rows]
    lines = [table(headers, cells, keys=2), ""]
    if (more := len(found.rows) - _SHOWN) > 0:
        lines.append(f"{plural(more, 'more row')}: --output FILE.jsonl or --json has all.")
    if found.accuracy is not None:
        lines.append(
            f"{found.record} prefers the chosen answer of {show(found.accuracy)} of "
            f"{plural(found.accuracy.count, 'pair')}."
        )
    if found.poles is not None:
        same = found.poles.same_order
        within = "" if same is None else f"{same:.3f} of two answers to a prompt in one order, "
        lines.append(
            f"The trained poles agree: {within}rank correlation {found.poles.spearman:.3f}."
        )
    if output is not None:
        lines.append(f"Every row is in {output}.")
    said = (
        "A reward is β times nats and compares answers to one prompt; that of a long answer is "
        "larger, of either sign, which the column a token shows."
    )
    return "\n".join([*lines, paragraph(said)])


def _require_terms(terms: tuple[Term, ...]) -> None:
    if not terms:
        raise UsageError("Give at least one TERM, as in helpful:1.")


def _describe_evaluation(found: "Evaluation") -> str:
    rows = [_figure_row(figure) for figure in found.figures.measured]
    headers = ("FIGURE", "UNIT", "BASE", "COMPOSED", "CHANGE", "P", "WORDS")
    figures = table(headers, rows, spare=("WORDS", "UNIT", "BASE", "P"))
    lines = [found.candidate.formula, "", figures, ""]
    lines += describe_missing(found.figures.missing)
    said = (
        f"{found.prompts} prompts in {found.groups} groups. In brackets, 95 % intervals over "
        "groups of prompts, for this φ: another training seed is another φ. P is adjusted for "
        "the number of figures (Holm)."
    )
    return "\n".join([*lines, paragraph(said)])


def _figure_row(figure: "Figure") -> tuple[str, ...]:
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


@command("gate")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@click.option(
    "--require",
    required=True,
    metavar="BOUNDS",
    help='What must hold, as in "harmless>=0.7,correct>=0.9,kl<=2".',
)
@click.option("--strict", is_flag=True, help="The whole interval must lie beyond the bound.")
@_measured
def gate(
    common: Common, terms: tuple[Term, ...], require: str, strict: bool, **options: Any
) -> int:
    """Measure a composition and exit with 3 unless every bound holds.

    A bound is on AXIS (its own metric), AXIS.accuracy, AXIS.margin, correct, kl, length,
    malformed, refuses_safe, refuses_unsafe or repetition.
    """
    _require_terms(terms)
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.gate(terms, require, strict=strict, progress=progress, **options)
    data = {
        "met": found.met,
        "strict": strict,
        "requirements": [verdict.to_json() for verdict in found.verdicts],
        "evaluation": found.evaluation.to_json(),
    }
    common.emit("gate", data, _describe_gate(found), asked=True)
    return 0 if found.met else GATE_NOT_MET


def _describe_gate(found: "Gate") -> str:
    rows = [
        (
            str(verdict.requirement),
            show(verdict.figure.value),
            (click.style("met", fg="green") if verdict.met else click.style("NOT MET", fg="red"))
            + ("" if verdict.certain else ", but the interval holds the bound"),
        )
        for verdict in found.verdicts
    ]
    said = "The gate is met." if found.met else "The gate is not met."
    formula = found.evaluation.candidate.formula
    return "\n".join([formula, "", table(("REQUIRED", "MEASURED", "VERDICT"), rows), "", said])


@command("sweep")
@click.argument(
    "grid",
    nargs=-1,
    required=True,
    metavar="AXIS=FROM:TO:STEP|TERM...",
    shell_complete=completing.VERSIONS,
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("sweep"),
    show_default="sweep/",
    help="Folder for the table, the pictures and the report.",
)
@click.option("--overwrite", is_flag=True, help="Replace a folder that a sweep wrote.")
@_measured
def sweep(common: Common, grid: tuple[str, ...], output: Path, **options: Any) -> None:
    """Measure every setting of a grid, as in helpful=-1:1:0.5 harmless=-1,0,1 verbosity:0.5.

    After an interruption the same command goes on where it was.
    """
    with progress_bars(common) as progress:
        found = common.open_registry().sweep(grid, output, progress=progress, **options)
    data = found.to_json()
    common.emit("sweep", data, _describe_sweep(found, data["recipe"]))


def _describe_sweep(found: "Sweep", recipe: str) -> str:
    names = [*found.main_figures, *found.common(("kl", "correct", "malformed", "length"))]
    rows = [_sweep_row(cell, names) for cell in found.cells]
    headers = [*(f"η {heading(axis)}" for axis in found.axes), *map(heading, names)]
    seconds = found.seconds
    return "\n".join(
        [
            table(headers, rows, keys=len(found.axes)),
            "",
            paragraph(recipe),
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
@request_options(
    "ReproduceRequest",
    leave="name",
    output={"required": False},
    data={"type": click.Path(path_type=Path, file_okay=False), "metavar": "PACK"},
    questions={"type": click.Path(path_type=Path, dir_okay=False)},
)
def reproduce(common: Common, name: str | None, **options: Any) -> None:
    """Repeat an experiment of the paper; without NAME, list them.

    Vectors are taken from the registry or trained into the folder, where the same command goes on
    after an interruption.
    """
    if name is None:
        from prefreg import api

        known = api.EXPERIMENTS
        data = [each.to_json() for each in known]
        common.emit("reproduce", data, _list_experiments(known), asked=True)
        return
    with progress_bars(common) as progress:
        found = common.open_registry().reproduce(
            name, progress=progress, tell=common.note, **options
        )
    results = found.results | {"folder": str(found.folder)}
    common.emit("reproduce", results, _describe_reproduced(found))


def _list_experiments(known: "tuple[Experiment, ...]") -> str:
    rows = [(each.name, each.paper, each.minutes, each.summary) for each in known]
    headers = ("NAME", "OF THE PAPER", "MINUTES", "WHAT IT SHOWS")
    return table(headers, rows) + "\n\nMinutes are on the bundled model and one core."


def _describe_reproduced(found: "Reproduced") -> str:
    lines = [found.findings.recipe]
    for each in found.findings.tables:
        lines += ["", each.title, "", table([heading(head) for head in each.headers], each.rows)]
    verdicts = {True: "held", False: "DID NOT HOLD", None: "not measured"}
    lines.append("")
    lines += [
        f"{verdicts[each.held]}: {each.text}: {each.figures}." for each in found.findings.claims
    ]
    lines += ["", *found.findings.notes] if found.findings.notes else []
    return "\n".join([*lines, "", f"Everything is in {found.folder}; begin with results.md."])


@command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the scratch registry, the composed model and the picture.",
)
@click.option(
    "--prompts",
    type=click.IntRange(10, 400),
    default=200,
    show_default=True,
    help="Prompts of each kind to measure on.",
)
@click.option(
    "--seed", type=WholeNumber(), default=0, show_default=True, help="Of data and answers."
)
def demo(common: Common, output: Path, prompts: int, seed: int) -> None:
    """Train three axes on the bundled model, compose them, and show what the dials do.

    Takes three to five minutes on two cores and needs no network.
    """
    from prefreg import api

    with progress_bars(common) as progress:
        made = api.demonstrate(
            output, prompts=prompts, seed=seed, progress=progress, tell=common.note
        )
    common.emit("demo", made.to_json(), _describe_demo(made))


def _describe_demo(made: "Demonstration") -> str:
    columns = made.script.columns
    rows = [
        (
            " ".join(map(str, setting.terms)) or "base",
            *(
                "-" if (found := setting.behaviour[figure]) is None else format(found.value, form)
                for figure, (_, form) in columns.items()
            ),
        )
        for setting in made.settings
    ]
    lines = ["", table(("SETTING", *(heading for heading, _ in columns.values())), rows)]
    for example in made.examples:
        width = max(len(label) for label, _ in example.answers)
        lines += ["", f"> {example.prompt}"]
        lines += [f"  {label.ljust(width)}  {answer}" for label, answer in example.answers]
    term, prompt = made.script.invitation
    lines += [
        "",
        f"The picture is {made.picture}, the composed model {made.model}; try",
        f'  prefreg --registry {made.folder / "registry.db"} generate {term} --prompt "{prompt}"',
    ]
    return "\n".join(lines)


COMMANDS = [evaluate, score, gate, sweep]
