"""Measure a grid of settings, and write tables, pictures and a report of it."""

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

from prefreg.composition.folder import RECIPE_FILE, new_folder, require_usable
from prefreg.evaluation.grid import Grid
from prefreg.flows.access import Access
from prefreg.flows.measuring.evaluate import evaluation_view
from prefreg.flows.measuring.evaluator import Progress, open_evaluator
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.flows.measuring.swept import Cell, Sweep, describe_recipe
from prefreg.terms import format_eta

_NEEDED = 16 * 1024 * 1024


def sweep(
    access: Access,
    grid: Grid,
    request: EvaluationRequest,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Measure every setting of a grid; what was measured before an interruption is not repeated.

    Raises:
        OutputError: The folder holds something else, or a sweep that may not be replaced.
        UsageError: An option is malformed.
        RegistryError: An axis has no version on the base.
        DataError: A metric failed, or a file cannot be read.
    """
    target = Path(os.path.realpath(output))
    require_usable(target, overwrite=overwrite, keep=())
    started = time.perf_counter()
    settings = list(grid.cells())
    evaluator = open_evaluator(access, settings[-1][1], request)
    cells = []
    for done, (etas, terms) in enumerate(settings, 1):
        cells.append(Cell(etas, evaluator.evaluate(evaluator.candidate(terms))))
        if progress is not None:
            progress("settings", done, len(settings))
    measured = time.perf_counter()
    with access.reading() as store:
        axes = tuple(store.canonical(each.axis) or each.axis for each in grid.turned)
    seconds = {"measuring": measured - started, **evaluator.bench.seconds}
    found = Sweep(grid, axes, tuple(evaluator.axes), tuple(cells), output, (), seconds)
    with new_folder(target, needed=_NEEDED, overwrite=overwrite, keep=()) as folder:
        # matplotlib takes a second to import, and only what is drawn needs it.
        from prefreg.flows.measuring.drawing import write_pictures_and_report

        _write_results(found, folder)
        _write_table(found, folder)
        write_pictures_and_report(found, folder)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    drawn = time.perf_counter() - measured
    return Sweep(
        grid, axes, found.scored, found.cells, output, files, {**seconds, "drawing": drawn}
    )


def sweep_view(found: Sweep) -> dict[str, Any]:
    """Return a sweep in a form that JSON can hold."""
    return {
        "folder": str(found.folder),
        "files": list(found.files),
        "axes": list(found.axes),
        "recipe": describe_recipe(found),
        "seconds": {name: round(value, 3) for name, value in found.seconds.items()},
        "settings": [
            {
                "etas": dict(zip(found.axes, cell.etas, strict=True)),
                "evaluation": evaluation_view(cell.evaluation),
            }
            for cell in found.cells
        ],
    }


def _write_results(found: Sweep, folder: Path) -> None:
    # By a formula in this file, a folder is known to be one of prefreg's.
    formula = "base + " + " + ".join(f"η·{axis}" for axis in found.axes)
    kept = {"schema": 1, "formula": formula, "made_by": "prefreg sweep"} | sweep_view(found)
    text = json.dumps(kept, ensure_ascii=False, indent=1)
    (folder / RECIPE_FILE).write_text(text + "\n", encoding="utf-8")


def _write_table(found: Sweep, folder: Path) -> None:
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*found.axes, "figure", "unit", "value", "low", "high", "groups"])
        for cell in found.cells:
            for figure in cell.evaluation.figures.measured:
                value = figure.value
                numbers = (value.value, value.low, value.high, figure.groups)
                writer.writerow([*map(format_eta, cell.etas), figure.name, figure.unit, *numbers])
