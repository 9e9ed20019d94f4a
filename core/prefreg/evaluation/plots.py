"""Pictures of what was measured: each with axes, units, intervals and the recipe below it."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from prefreg.errors import OutputError
from prefreg.evaluation.consistency import Spread
from prefreg.evaluation.statistics import Estimate
from prefreg.terms import format_eta

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito: told apart by the colour-blind."""
_DOTS = 150


class Canvas:
    """A picture that is saved when its block ends without an error."""

    def __init__(
        self, destination: Path, *, title: str, caption: str, columns: int, rows: int = 1,
        width: float = 4.2, height: float = 4.0,
    ) -> None:  # fmt: skip
        """Lay out panels; `caption` has the recipe and what the intervals are of."""
        self._destination = destination
        size = (width * columns, height * rows + 0.4)
        self.figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.figure.suptitle(title, fontweight="bold")
        # Eight points take about a sixteenth of an inch a letter.
        lines = textwrap.wrap(caption, max(40, int(size[0] * 15)))
        self.figure.supxlabel("\n".join(lines), fontsize=8, color="#444444")
        grid = self.figure.subplots(rows, columns, squeeze=False)
        self.panels: list[Axes] = list(np.asarray(grid).ravel())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.figure.savefig(self._destination, dpi=_DOTS)


_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Curve:
    """One measured quantity against η."""

    label: str
    points: Mapping[float, Estimate]
    context: bool = False
    """Drawn thin and grey: another setting of the other dials."""


def draw_curves(
    panels: Mapping[str, Sequence[Curve]],
    destination: Path,
    *,
    title: str,
    caption: str,
    units: Mapping[str, str],
    across: str = "η of {}",
) -> None:
    """Draw a panel per axis and save the picture.

    `units` names each panel's vertical axis and `across` the horizontal ones, with the panel's name
    for `{}`; `caption` holds the recipe, below the panels.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with Canvas(destination, title=title, caption=caption, columns=columns, rows=rows) as canvas:
        for panel, (name, curves) in zip(canvas.panels, panels.items(), strict=False):
            _draw_curves(panel, name, curves, units[name], across.format(name))
        for panel in canvas.panels[len(panels) :]:
            panel.set_visible(False)


def _draw_curves(panel: Axes, name: str, curves: Sequence[Curve], unit: str, across: str) -> None:
    colours = iter(COLOURS * (len(curves) // len(COLOURS) + 1))
    for curve in curves:
        etas = sorted(curve.points)
        points = [curve.points[eta] for eta in etas]
        values, low, high = zip(
            *((point.value, point.low, point.high) for point in points), strict=True
        )
        if curve.context:
            panel.plot(etas, values, color="#999999", linewidth=0.8, zorder=1, label=curve.label)
            continue
        colour = next(colours)
        panel.plot(etas, values, marker="o", markersize=4, color=colour, label=curve.label)
        panel.fill_between(etas, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_xlabel(across)
    panel.set_ylabel(unit)
    panel.set_title(name)
    if unit.startswith("share"):
        panel.set_ylim(-0.03, 1.03)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8, framealpha=0.9)


_COLUMNS = 3
_MOST_WRITTEN = 7
"""Cells of a larger grid are too small to write in."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One figure over the settings of two dials, `(η across, η up)`; cells may be missing."""

    title: str
    unit: str
    cells: Mapping[tuple[float, float], Estimate]


def draw_heatmaps(
    maps: Sequence[HeatMap],
    destination: Path,
    *,
    across: str,
    up: str,
    title: str,
    caption: str,
) -> None:
    """Draw a panel per figure and save the picture."""
    # More side by side cannot be read on a page.
    columns = 2 if len(maps) == 4 else min(_COLUMNS, len(maps))
    rows = math.ceil(len(maps) / columns)
    with Canvas(
        destination, title=title, caption=caption, columns=columns, rows=rows, width=4.6, height=3.9
    ) as canvas:
        for panel, each in zip(canvas.panels, maps, strict=False):
            _draw_heatmap(canvas, panel, each, across, up)
        for panel in canvas.panels[len(maps) :]:
            panel.set_visible(False)


def _draw_heatmap(canvas: Canvas, panel: Axes, drawn: HeatMap, across: str, up: str) -> None:
    xs, ys = (sorted({key[side] for key in drawn.cells}) for side in (0, 1))
    values = np.full((len(ys), len(xs)), np.nan)
    for (x, y), estimate in drawn.cells.items():
        values[ys.index(y), xs.index(x)] = estimate.value
    shares = drawn.unit.startswith("share")
    image = panel.imshow(
        values,
        origin="lower",
        cmap="viridis",
        aspect="auto",
        vmin=0 if shares else None,
        vmax=1 if shares else None,
    )
    canvas.figure.colorbar(image, ax=panel, label=drawn.unit, shrink=0.9)
    panel.set_xticks(range(len(xs)), [format_eta(x) for x in xs])
    panel.set_yticks(range(len(ys)), [format_eta(y) for y in ys])
    panel.set_xlabel(f"η of {across}")
    panel.set_ylabel(f"η of {up}")
    panel.set_title(drawn.title)
    if len(xs) <= _MOST_WRITTEN and len(ys) <= _MOST_WRITTEN:
        low, high = (0.0, 1.0) if shares else (np.nanmin(values), np.nanmax(values))
        for (x, y), estimate in drawn.cells.items():
            bright = (estimate.value - low) / ((high - low) or 1.0) > 0.6
            colour = "black" if bright else "white"
            place = (xs.index(x), ys.index(y))
            panel.annotate(
                f"{estimate.value:.2f}", place, color=colour, fontsize=8,
                ha="center", va="bottom", fontweight="bold",
            )  # fmt: skip
            panel.annotate(
                f"{estimate.low:.2f} to {estimate.high:.2f}", place, color=colour, fontsize=6,
                ha="center", va="top", xytext=(0, -2), textcoords="offset points",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """One setting with both figures."""

    label: str
    x: Estimate
    y: Estimate
    shade: float | None = None
    """A third figure, told by colour."""


def front(points: Sequence[Point], *, x_sign: int = 1, y_sign: int = 1) -> list[Point]:
    """Return the settings that no other beats in both figures, by x; a sign of −1 wants less."""

    def beats(one: Point, other: Point) -> bool:
        dx = x_sign * (one.x.value - other.x.value)
        dy = y_sign * (one.y.value - other.y.value)
        return dx >= 0 and dy >= 0 and (dx > 0 or dy > 0)

    kept = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(kept, key=lambda point: (point.x.value, point.y.value))


def draw_pareto(
    points: Sequence[Point],
    destination: Path,
    *,
    x_label: str,
    y_label: str,
    shade_label: str,
    title: str,
    caption: str,
    x_sign: int = 1,
    y_sign: int = 1,
) -> None:
    """Draw every setting with its intervals, and join those of the front."""
    best = front(points, x_sign=x_sign, y_sign=y_sign)
    with Canvas(
        destination, title=title, caption=caption, columns=1, width=7.4, height=5.4
    ) as canvas:
        (panel,) = canvas.panels
        for point in points:
            panel.errorbar(
                point.x.value,
                point.y.value,
                xerr=[[point.x.value - point.x.low], [point.x.high - point.x.value]],
                yerr=[[point.y.value - point.y.low], [point.y.high - point.y.value]],
                color="#BBBBBB",
                linewidth=0.7,
                zorder=1,
            )
        shown = panel.scatter(
            [point.x.value for point in points],
            [point.y.value for point in points],
            c=[0.0 if point.shade is None else point.shade for point in points],
            cmap="viridis",
            s=38,
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
        )
        if any(point.shade is not None for point in points):
            canvas.figure.colorbar(shown, ax=panel, label=shade_label, shrink=0.9)
        panel.plot(
            [point.x.value for point in best],
            [point.y.value for point in best],
            color=COLOURS[1],
            linewidth=1.4,
            zorder=2,
            label="front: no setting is better in both",
        )
        middle = sum(panel.get_xlim()) / 2
        for place, point in enumerate(best):
            inwards = -1 if point.x.value > middle else 1  # so that no label leaves the panel
            panel.annotate(
                point.label,
                (point.x.value, point.y.value),
                xytext=(6 * inwards, 6 if place % 2 else -11),
                textcoords="offset points",
                ha="left" if inwards == 1 else "right",
                fontsize=7,
                color="#333333",
                zorder=4,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8, framealpha=0.9, loc="best")


def save_plot(figure: Figure, destination: Path) -> None:
    """Write the picture."""
    try:
        figure.savefig(destination, dpi=150)
    except OSError as error:
        raise OutputError(
            f"{destination} cannot be written: {error.strerror}. Name another file with --plot."
        ) from error


@dataclass(frozen=True, slots=True)
class LabelledMatrix:
    """One matrix with its labels."""

    title: str
    values: NDArray[np.float64]
    rows: Sequence[str]
    columns: Sequence[str]
    unit: str
    """What the colours and numbers are, as on the colour bar."""
    low: float
    middle: float
    """The value that is white: that of vectors without anything in common."""
    high: float
    across: str = ""
    down: str = ""
    notes: NDArray[np.str_] | None = None
    """A second line in every cell, such as an interval."""


def draw_matrices(
    panels: Sequence[LabelledMatrix], destination: Path, *, title: str, caption: str
) -> None:
    """Draw the panels side by side, two a row, and save the picture."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    widths = [max(len(each.columns) * 0.85, 3.0) for each in panels]
    heights = [max(len(each.rows) * 0.5, 1.8) for each in panels]
    size = (across * (max(widths) + 2.8), down * (max(heights) + 1.9) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontweight="bold")
    cells = figure.subplots(down, across, squeeze=False).flatten()
    for cell, panel in zip(cells, panels, strict=False):
        _draw(figure, cell, panel)
    for cell in cells[len(panels) :]:
        cell.set_axis_off()
    figure.supxlabel(caption, fontsize=8, color="#444444")
    save_plot(figure, destination)


def _draw(figure: Figure, cell: Axes, panel: LabelledMatrix) -> None:
    # Cells whose value says nothing, such as a vector beside itself, stay grey.
    cell.set_facecolor("#e4e4e4")
    norm: Normalize = (
        TwoSlopeNorm(panel.middle, panel.low, panel.high)
        if panel.low < panel.middle < panel.high
        else Normalize(panel.low, panel.high)
    )
    two_sided = panel.low < panel.middle
    image = cell.imshow(
        np.ma.masked_invalid(panel.values),
        norm=norm,
        cmap="RdBu_r" if two_sided else "Blues",
        aspect="auto",
    )
    figure.colorbar(image, ax=cell, label=panel.unit, shrink=0.85)
    cell.set_xticks(range(len(panel.columns)), panel.columns, rotation=35, ha="right", fontsize=8)
    cell.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
    cell.set_title(panel.title, fontsize=10)
    cell.set_xlabel(panel.across, fontsize=9)
    cell.set_ylabel(panel.down, fontsize=9)
    for (row, column), value in np.ndenumerate(panel.values):
        if np.isfinite(value):
            position = float(norm(value))
            strong = abs(position - 0.5) > 0.32 if two_sided else position > 0.6
            text = f"{value:.2f}"
            if panel.notes is not None:
                text += f"\n{panel.notes[row, column]}"
            size = 8 if panel.notes is None else 6.5
            colour = "white" if strong else "black"
            cell.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


_BLUE, _GREY = "#0072B2", "#444444"
_WRITTEN = 12
"""Up to so many seeds, the number is written into every cell."""


def draw_consistency(
    destination: Path,
    *,
    title: str,
    caption: str,
    seeds: Sequence[int],
    cosines: Sequence[Sequence[float]],
    layers: Mapping[str, Spread],
) -> None:
    """Draw the cosine of every two seeds, and the mean of each layer, and save the picture."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontweight="bold")
    matrix, by_layer = figure.subplots(1, 2)
    _draw_matrix(figure, matrix, seeds, cosines)
    _draw_layers(by_layer, layers)
    figure.supxlabel(caption, fontsize=8, color=_GREY)
    save_plot(figure, destination)


def _draw_matrix(
    figure: Figure, panel: Axes, seeds: Sequence[int], cosines: Sequence[Sequence[float]]
) -> None:
    image = panel.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu")
    figure.colorbar(image, ax=panel, shrink=0.8)
    places = range(len(seeds))
    panel.set_xticks(places, [str(seed) for seed in seeds])
    panel.set_yticks(places, [str(seed) for seed in seeds])
    panel.set_xlabel("seed")
    panel.set_ylabel("seed")
    panel.set_title("cosine of two seeds")
    if len(seeds) > _WRITTEN:
        return
    for row in places:
        for column in places:
            value = cosines[row][column]
            colour = "white" if abs(value) > 0.6 else "black"
            panel.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8
            )


def _draw_layers(panel: Axes, layers: Mapping[str, Spread]) -> None:
    places = range(len(layers))
    for place, spread in zip(places, layers.values(), strict=True):
        panel.plot([spread.low, spread.high], [place, place], color=_BLUE, linewidth=2, alpha=0.4)
        panel.plot([spread.value], [place], marker="o", color=_BLUE, markersize=5)
    panel.set_yticks(places, list(layers))
    panel.invert_yaxis()
    panel.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_xlabel("mean cosine of two seeds")
    panel.set_title("by layer")
    panel.grid(alpha=0.25)
