"""Measure a grid of settings: tables, pictures and a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.evaluating import evaluation_options, make_request, show
from prefreg.cli.options import Common, command, table
from prefreg.cli.progress import stage_progress

if TYPE_CHECKING:
    from prefreg.flows.measuring.swept import Cell, Sweep


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
    from prefreg.evaluation.grid import parse_grid
    from prefreg.flows.measuring.sweep import sweep_view

    wanted = parse_grid(grid)
    request = make_request(axes, tasks, **options)
    with stage_progress(common) as progress:
        found = common.open_registry().sweep(
            wanted, output, request, overwrite=overwrite, progress=progress
        )
    common.emit("sweep", sweep_view(found), _describe(found))


def _describe(found: "Sweep") -> str:
    from prefreg.flows.measuring.swept import describe_recipe

    names = [*found.main_figures, *found.common(("kl", "correct", "malformed", "length"))]
    rows = [_row(cell, names) for cell in found.cells]
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


def _row(cell: "Cell", names: list[str]) -> list[str]:
    figures = [cell.figure(name) for name in names]
    return [
        *(f"{eta:g}" for eta in cell.etas),
        *("-" if figure is None else show(figure.value) for figure in figures),
    ]


COMMANDS = (sweep,)
