"""The pictures of a sweep, and its report."""

from collections.abc import Sequence
from pathlib import Path

from prefreg.evaluation.evaluate import Cell as TableCell
from prefreg.evaluation.evaluate import Picture, describe_terms, write_report
from prefreg.evaluation.plots import (
    Curve,
    HeatMap,
    Point,
    draw_curves,
    draw_heatmaps,
    draw_pareto,
    front,
)
from prefreg.evaluation.sweep import Cell, Sweep, describe_recipe
from prefreg.terms import Term, format_eta

_ALWAYS = ("kl", "correct", "malformed", "length", "refuses_safe")
_CONTEXT = 6
"""Other settings of the other dials that are drawn behind a curve."""


def write_pictures_and_report(found: Sweep, folder: Path) -> None:
    """Draw what the grid allows, and put it into one HTML file."""
    caption = describe_recipe(found)
    pictures = [_curves(found, folder / "curves.png", caption)]
    if len(found.axes) >= 2:
        pictures.append(_heatmaps(found, folder / "heatmaps.png", caption))
    pictures.append(_pareto(found, folder / "pareto.png", caption))
    names = found.main_figures + found.common(_ALWAYS)
    best = {id(cell) for cell in _front_cells(found)}
    write_report(
        folder / "report.html",
        title="Sweep of " + " × ".join(found.axes),
        recipe="θ = θ_base + " + " + ".join(f"η·φ({axis})" for axis in found.axes),
        facts=_facts(found),
        pictures=pictures,
        headers=["setting", *names],
        rows=[_row(found, cell, names, best=id(cell) in best) for cell in found.cells],
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


def _row(found: Sweep, cell: Cell, names: Sequence[str], *, best: bool) -> list[TableCell]:
    row = [TableCell(_label(found, cell), best=best)]
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
    return describe_terms([Term(axis, eta) for axis, eta in pairs if eta])


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
        said = " ".join(f"{axis} {format_eta(eta)}" for axis, eta in pairs)
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


def _points(found: Sweep) -> list[tuple[Cell, Point]]:
    x_name, y_name, _, _ = _goals(found)
    points = []
    for cell in found.cells:
        x, y, kl = cell.figure(x_name), cell.figure(y_name), cell.figure("kl")
        if x is not None and y is not None:
            shade = kl.value.value if kl is not None and x_name != "kl" else None
            points.append((cell, Point(_label(found, cell), x.value, y.value, shade)))
    return points


def _front_cells(found: Sweep) -> list[Cell]:
    pairs = _points(found)
    _, _, x_sign, y_sign = _goals(found)
    best = front([point for _, point in pairs], x_sign=x_sign, y_sign=y_sign)
    return [cell for cell, point in pairs if point in best]


def _pareto(found: Sweep, destination: Path, caption: str) -> Picture:
    x_name, y_name, x_sign, y_sign = _goals(found)
    points = [point for _, point in _points(found)]
    figures = [figure for cell in found.cells for figure in cell.evaluation.figures.measured]
    units = {figure.name: figure.unit for figure in figures}
    title = f"{y_name} against {x_name}"
    draw_pareto(
        points,
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
        "setting beats in both. One composition is a trade, not a failure.",
    )
