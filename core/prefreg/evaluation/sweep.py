"""Measure a grid of settings, and write tables, pictures and a report of it."""

import csv
import itertools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefreg.composition.output import RECIPE_FILE, new_folder, require_usable
from prefreg.errors import UsageError
from prefreg.evaluation.evaluate import INTERVAL, evaluation_view
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluation, open_evaluator
from prefreg.evaluation.figures import Figure
from prefreg.progress import Progress
from prefreg.registry.access import Access
from prefreg.terms import NUMBER, Term, format_eta, parse_reference, parse_term

MOST_CELLS = 2000
_FORM = "Write AXIS=FROM:TO:STEP, as in helpful=-1:1:0.5, or AXIS=-1,0,1."


@dataclass(frozen=True, slots=True)
class Turned:
    """An axis with the coefficients it takes."""

    axis: str
    reference: str | None
    etas: tuple[float, ...]

    def at(self, eta: float) -> Term:
        """Return the axis at one coefficient."""
        return Term(self.axis, eta, self.reference)


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of the coefficients of the axes that are turned."""

    turned: tuple[Turned, ...]
    fixed: tuple[Term, ...]

    def __len__(self) -> int:
        return math.prod(len(each.etas) for each in self.turned)

    def cells(self) -> Iterator[tuple[tuple[float, ...], tuple[Term, ...]]]:
        """Yield the coefficients of the turned axes with all terms of the setting."""
        for etas in itertools.product(*(each.etas for each in self.turned)):
            terms = [each.at(eta) for each, eta in zip(self.turned, etas, strict=True)]
            yield etas, (*terms, *self.fixed)


def parse_grid(texts: Sequence[str]) -> Grid:
    """Read the axes that are turned and those that stay."""
    turned = tuple(_parse(text) for text in texts if "=" in text)
    fixed = tuple(parse_term(text) for text in texts if "=" not in text)
    if not turned:
        raise UsageError(f"A sweep needs an axis that is turned. {_FORM}")
    grid = Grid(turned, fixed)
    if len(grid) > MOST_CELLS:
        raise UsageError(
            f"{len(grid)} settings are more than the {MOST_CELLS} of a sweep: take larger steps."
        )
    return grid


def _parse(text: str) -> Turned:
    name, _, values = text.partition("=")
    axis, reference = parse_reference(name)
    if ":" in values:
        parts = values.split(":")
        if len(parts) != 3:
            raise UsageError(f"{text!r} has no range. {_FORM}")
        etas = _range(text, *(_number(part, text) for part in parts))
    else:
        etas = tuple(_number(part, text) for part in values.split(","))
    if len(set(etas)) < len(etas):
        raise UsageError(f"{text!r} names a coefficient twice.")
    return Turned(axis, reference, tuple(sorted(etas)))


def _range(text: str, start: float, stop: float, step: float) -> tuple[float, ...]:
    if step <= 0 or stop < start:
        raise UsageError(f"{text!r} goes nowhere: FROM is at most TO, and STEP above 0. {_FORM}")
    count = math.floor((stop - start) / step + 1e-9) + 1
    if count > MOST_CELLS:
        raise UsageError(f"{text!r} has {count} steps: take larger ones.")
    # A step of .1 is no binary fraction: without rounding, 0 would come out as 5.6e-17.
    return tuple(round(start + place * step, 12) + 0.0 for place in range(count))


def _number(part: str, text: str) -> float:
    if not NUMBER.fullmatch(part.strip()) or not math.isfinite(float(part)):
        raise UsageError(f"{part!r} in {text!r} is no finite number. {_FORM}")
    return float(part) + 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting with what it did."""

    etas: tuple[float, ...]
    """Of the turned axes, in their order."""
    evaluation: Evaluation

    def figure(self, name: str) -> Figure | None:
        """Return a figure of this setting."""
        return self.evaluation.figures.find(name)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A grid that was measured, and what was written of it."""

    grid: Grid
    axes: tuple[str, ...]
    """The turned axes by their canonical names."""
    scored: tuple[str, ...]
    cells: tuple[Cell, ...]
    folder: Path
    files: tuple[str, ...]
    seconds: Mapping[str, float]

    def common(self, names: Sequence[str]) -> list[str]:
        """Return those figures that any setting has."""
        return [name for name in names if any(cell.figure(name) for cell in self.cells)]

    @property
    def main_figures(self) -> list[str]:
        """Return the figure of each scored axis: its own metric, else its margin."""
        found = []
        for axis in self.scored:
            found += self.common([axis]) or self.common([f"{axis}.margin"])
        return found


def describe_recipe(found: Sweep) -> str:
    """Say what was turned, on what, and how it was measured."""
    first = found.cells[0].evaluation
    turned = ", ".join(
        f"{axis} {format_eta(each.etas[0])} to {format_eta(each.etas[-1])}"
        for axis, each in zip(found.axes, found.grid.turned, strict=True)
    )
    candidates = [cell.evaluation.candidate for cell in found.cells]
    versions = {str(record) for each in candidates for _, record in each.versions}
    names = ", ".join(sorted(versions)) or "no vector"
    fixed = "".join(f"; {term} throughout" for term in found.grid.fixed)
    return (
        f"{first.candidate.base} with {names}: {turned}{fixed}. "
        f"{first.prompts} prompts in {first.groups} groups, one answer each at temperature 1, seed "
        f"{first.request.seed}; intervals: {INTERVAL}."
    )


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
    """Measure every setting of a grid; what was measured before an interruption is not repeated."""
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
        from prefreg.evaluation.sweep_pictures import write_pictures_and_report

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
