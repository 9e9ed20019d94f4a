"""Measure a grid of settings, and write a table, pictures and a report of it."""

import base64
import csv
import html
import itertools
import math
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefreg.composition.output import new_folder, require_usable, write_recipe
from prefreg.errors import Interrupted, UsageError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import open_evaluator
from prefreg.evaluation.figures import INTERVAL, Evaluation, Figure
from prefreg.evaluation.plots import (
    Curve,
    HeatMap,
    Picture,
    Point,
    draw_curves,
    draw_heatmaps,
    draw_pareto,
    front,
)
from prefreg.progress import Progress
from prefreg.registry import Access
from prefreg.terms import NUMBER, Term, brief_eta, format_eta, parse_reference, parse_term

MOST_CELLS = 2000
_NEEDED = 16 * 1024 * 1024
_ALWAYS = (
    "kl", "correct", "malformed", "repetition", "length", "refuses_safe", "refuses_unsafe",
)  # fmt: skip
_CONTEXT = 6
"""Other settings of the other dials that are drawn behind a curve."""
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
    steps = (stop - start) / step + 1e-9
    if not steps < MOST_CELLS:
        raise UsageError(f"{text!r} has more than {MOST_CELLS} steps: take larger ones.")
    # A step of .1 is no binary fraction: without rounding, 0 would come out as 5.6e-17.
    return tuple(round(start + place * step, 12) + 0.0 for place in range(math.floor(steps) + 1))


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
    seconds: dict[str, float]

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

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "folder": str(self.folder),
            "files": list(self.files),
            "axes": list(self.axes),
            "recipe": describe_recipe(self),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "settings": [
                {
                    "etas": dict(zip(self.axes, cell.etas, strict=True)),
                    "evaluation": cell.evaluation.to_json(),
                }
                for cell in self.cells
            ],
        }


def describe_recipe(found: Sweep) -> str:
    """Say what was turned, on what, and how it was measured."""
    first = found.cells[0].evaluation
    turned = ", ".join(
        f"{axis} {brief_eta(each.etas[0])} to {brief_eta(each.etas[-1])}"
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
    try:
        for done, (etas, terms) in enumerate(settings, 1):
            cells.append(Cell(etas, evaluator.evaluate(evaluator.candidate(terms))))
            if progress is not None:
                progress("settings", done, len(settings))
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. {len(cells)} of {len(settings)} settings are measured and kept: "
            "the same command goes on from there."
        ) from None
    measured = time.perf_counter()
    with access.reading() as store:
        axes = tuple(store.canonical(each.axis) or each.axis for each in grid.turned)
    seconds = {"measuring": measured - started, **evaluator.seconds}
    found = Sweep(grid, axes, tuple(evaluator.axes), tuple(cells), output, (), seconds)
    with new_folder(target, needed=_NEEDED, overwrite=overwrite, keep=()) as folder:
        _write_table(found, folder)
        _write_report(found, folder)
        _write_results(found, folder)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    drawn = time.perf_counter() - measured
    return replace(found, files=files, seconds=seconds | {"drawing": drawn})


def _write_results(found: Sweep, folder: Path) -> None:
    # By a formula in this file, a folder is known to be one of prefreg's.
    formula = "base + " + " + ".join(f"η·{axis}" for axis in found.axes)
    write_recipe(
        folder, {"schema": 1, "formula": formula, "made_by": "prefreg sweep", **found.to_json()}
    )


def _write_table(found: Sweep, folder: Path) -> None:
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*found.axes, "figure", "unit", "value", "low", "high", "groups"])
        for cell in found.cells:
            for figure in cell.evaluation.figures.measured:
                value = figure.value
                numbers = (value.value, value.low, value.high, figure.groups)
                writer.writerow([*map(format_eta, cell.etas), figure.name, figure.unit, *numbers])


def _write_report(found: Sweep, folder: Path) -> None:
    """Draw what the grid allows, and put it into one HTML file."""
    caption = describe_recipe(found)
    pictures = [_curves(found, folder / "curves.png", caption)]
    if len(found.axes) >= 2:
        pictures.append(_heatmaps(found, folder / "heatmaps.png", caption))
    pictures.append(_pareto(found, folder / "pareto.png", caption))
    names = found.main_figures + found.common(_ALWAYS)
    _, _, x_sign, y_sign = _goals(found)
    best = {each.label for each in front(_points(found), x_sign=x_sign, y_sign=y_sign)}
    write_report(
        folder / "report.html",
        title="Sweep of " + " × ".join(found.axes),
        recipe="θ = θ_base + " + " + ".join(f"η·φ({axis})" for axis in found.axes),
        facts=_facts(found),
        pictures=pictures,
        headers=["setting", *names],
        rows=[_row(cell, names, _label(found, cell), best) for cell in found.cells],
        notes=[
            caption,
            "Settings in colour lie on the Pareto front. Another training seed makes another φ, "
            "whose figures may lie outside the intervals.",
        ],
    )


def _facts(found: Sweep) -> list[tuple[str, str]]:
    first = found.cells[0].evaluation
    return [
        ("base", str(first.candidate.base).rpartition("/")[2]),
        ("settings", str(len(found.cells))),
        ("prompts", f"{first.prompts} in {first.groups} groups"),
        ("seed", str(first.request.seed)),
        ("measuring", f"{found.seconds['measuring']:.1f} s"),
        ("recomposing", f"{found.seconds['recomposing']:.2f} s"),
    ]


@dataclass(frozen=True, slots=True)
class TableCell:
    """A figure in a table, with its interval."""

    text: str
    interval: str = ""
    best: bool = False


def _row(cell: Cell, names: Sequence[str], label: str, best: Collection[str]) -> list[TableCell]:
    row = [TableCell(label, best=label in best)]
    for name in names:
        figure = cell.figure(name)
        if figure is None:
            row.append(TableCell("-"))
        else:
            value = figure.value
            row.append(TableCell(f"{value.value:.3f}", f"{value.low:.3f} to {value.high:.3f}"))
    return row


def _label(found: Sweep, cell: Cell) -> str:
    pairs = zip(found.axes, cell.etas, strict=True)
    return " ".join(f"{axis}:{brief_eta(eta)}" for axis, eta in pairs if eta) or "base"


def _curves(found: Sweep, destination: Path, caption: str) -> Picture:
    """Draw for each turned axis what it does to itself, the other dials at 0 or nearest to it."""
    panels: dict[str, list[Curve]] = {}
    units: dict[str, str] = {}
    for place, axis in enumerate(found.axes):
        names = found.main_figures
        own = next((name for name in names if name.partition(".")[0] == axis), None)
        own = own or next(iter(names), "kl")
        panels[axis] = _panel(found, place, own)
        unit = next(figure.unit for cell in found.cells if (figure := cell.figure(own)))
        units[axis] = unit if unit.startswith("share") else f"{own}, {unit}"
    draw_curves(panels, destination, title="What each dial does", caption=caption, units=units)
    return Picture(
        destination,
        "What each dial does",
        "Each panel turns one dial, with the others at 0 (or nearest to it); grey lines are other "
        "settings of the others. Bands are 95 % intervals.",
    )


def _panel(found: Sweep, place: int, name: str) -> list[Curve]:
    lines: dict[tuple[float, ...], dict[float, Cell]] = {}
    for cell in found.cells:
        others = cell.etas[:place] + cell.etas[place + 1 :]
        lines.setdefault(others, {})[cell.etas[place]] = cell
    ordered = sorted(lines, key=lambda others: (sum(map(abs, others)), others))
    names = [axis for at, axis in enumerate(found.axes) if at != place]
    curves = []
    for number, others in enumerate(ordered[: _CONTEXT + 1]):
        points = {
            eta: figure.value
            for eta, cell in lines[others].items()
            if (figure := cell.figure(name)) is not None
        }
        pairs = zip(names, others, strict=True)
        said = " ".join(f"{axis} {brief_eta(eta)}" for axis, eta in pairs)
        if points and number == 0:
            curves.append(Curve(f"{name}" + (f" ({said})" if said else ""), points))
        elif points:
            curves.append(Curve("other dials elsewhere" if number == 1 else "_", points, True))
    return curves


def _heatmaps(found: Sweep, destination: Path, caption: str) -> Picture:
    across, up = found.axes[:2]
    rest = sorted({cell.etas[2:] for cell in found.cells}, key=lambda etas: sum(map(abs, etas)))
    cells = [cell for cell in found.cells if cell.etas[2:] == rest[0]]
    maps = []
    for name in found.main_figures + found.common(_ALWAYS):
        figures = {cell.etas[:2]: cell.figure(name) for cell in cells}
        measured = {key: each for key, each in figures.items() if each is not None}
        unit = next((each.unit for each in measured.values()), "")
        if measured:
            values = {(key[0], key[1]): each.value for key, each in measured.items()}
            maps.append(HeatMap(name, unit, values))
    title = f"{across} against {up}"
    draw_heatmaps(maps, destination, across=across, up=up, title=title, caption=caption)
    return Picture(
        destination,
        title,
        "Each cell is one setting, with its 95 % interval below the figure."
        + (f" Further dials are at {rest[0]}." if rest[0] else ""),
    )


def _goals(found: Sweep) -> tuple[str, str, int, int]:
    """Return what the front is of: two scored figures, or one against KL, and their signs."""
    names = found.main_figures
    if len(names) >= 2:
        return names[0], names[1], 1, 1
    return "kl", names[0] if names else "length", -1, 1


def _points(found: Sweep) -> list[Point]:
    x_name, y_name, _, _ = _goals(found)
    points = []
    for cell in found.cells:
        x, y, kl = cell.figure(x_name), cell.figure(y_name), cell.figure("kl")
        if x is not None and y is not None:
            shade = kl.value.value if kl is not None and x_name != "kl" else None
            points.append(Point(_label(found, cell), x.value, y.value, shade))
    return points


def _pareto(found: Sweep, destination: Path, caption: str) -> Picture:
    x_name, y_name, x_sign, y_sign = _goals(found)
    figures = [figure for cell in found.cells for figure in cell.evaluation.figures.measured]
    units = {figure.name: figure.unit for figure in figures}
    title = f"{y_name} against {x_name}"
    draw_pareto(
        _points(found),
        destination,
        x_label=f"{x_name}, {units.get(x_name, '')}",
        y_label=f"{y_name}, {units.get(y_name, '')}",
        shade_label="kl, nats per answer",
        title=title,
        caption=caption,
        x_sign=x_sign,
        y_sign=y_sign,
    )
    return Picture(
        destination,
        "What one costs of the other" if x_sign > 0 else "What the effect costs in KL",
        "Each point is one setting with both 95 % intervals; the line joins those that no other "
        "setting beats in both, numbered as below it. One composition is a trade, not a failure.",
    )


_STYLE = """
:root{color-scheme:light dark;--ink:#1c1f24;--soft:#5c6470;--line:#e3e6ea;--page:#f6f7f9;
--card:#fff;--accent:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a0a8b3;--line:#343a43;--page:#15181c;
--card:#1e2228;--accent:#56b4e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:2.4rem 0 .8rem}
.recipe{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;color:var(--soft);margin:0 0 1.4rem}
.facts{display:flex;flex-wrap:wrap;gap:.75rem;margin:0;padding:0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:.6rem .9rem}
.facts dt{font-size:.75rem;color:var(--soft)}
.facts dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums}
figure{margin:0 0 1.4rem;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:1rem}
figure img{display:block;width:100%;height:auto;border-radius:6px;background:#fff}
figcaption{color:var(--soft);font-size:.88rem;margin-top:.7rem}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{position:sticky;top:0;background:var(--card);color:var(--soft);font-weight:600}
th:first-child,td:first-child{text-align:left;font-family:ui-monospace,Menlo,monospace}
tr:last-child td{border-bottom:0}
td small{display:block;color:var(--soft);font-size:.72rem}
td.best{color:var(--accent);font-weight:700}
p.note{color:var(--soft);max-width:46rem}
"""


def write_report(
    destination: Path,
    *,
    title: str,
    recipe: str,
    facts: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    headers: Sequence[str],
    rows: Sequence[Sequence[TableCell]],
    notes: Sequence[str],
) -> None:
    """Write the report."""
    body = [f"<h1>{_safe(title)}</h1>", f'<p class="recipe">{_safe(recipe)}</p>']
    body.append('<dl class="facts">')
    body += [f"<div><dt>{_safe(name)}</dt><dd>{_safe(value)}</dd></div>" for name, value in facts]
    body.append("</dl>")
    for picture in pictures:
        body += [f"<h2>{_safe(picture.title)}</h2>", _figure(picture)]
    body.append("<h2>Every setting</h2>")
    body.append(_table(headers, rows))
    body += [f'<p class="note">{_safe(note)}</p>' for note in notes]
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
    destination.write_text(document, encoding="utf-8")


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{_safe(picture.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_safe(picture.caption)}</figcaption></figure>"
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in headers)
    lines = []
    for row in rows:
        cells = []
        for cell in row:
            mark = ' class="best"' if cell.best else ""
            interval = f"<small>{_safe(cell.interval)}</small>" if cell.interval else ""
            cells.append(f"<td{mark}>{_safe(cell.text)}{interval}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _safe(text: str) -> str:
    return html.escape(text, quote=True)
