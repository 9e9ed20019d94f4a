"""Every picture: drawn with axes, units, intervals and the recipe below, and saved as one file."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import (
    LinearSegmentedColormap,
    ListedColormap,
    Normalize,
    TwoSlopeNorm,
)
from matplotlib.figure import Figure
from numpy.typing import NDArray

from prefreg.errors import OutputError
from prefreg.evaluation.statistics import Estimate, Spread
from prefreg.files import replacing
from prefreg.terms import format_eta

FORMATS = (".png", ".pdf", ".svg")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito: told apart by the colour-blind."""
POSITIVE, NEGATIVE = COLOURS[:2]
"""Blue is the positive pole and what is above the middle, everywhere; apart in grey too."""
TWO_SIDED = LinearSegmentedColormap.from_list("two-sided", [NEGATIVE, "white", POSITIVE])
_ONE_SIDED = LinearSegmentedColormap.from_list("one-sided", ["white", POSITIVE])
_GREY = "#444444"
_SHORT = 6
"""Letters of a label that need not be turned."""
_DOTS = 150
_ABREAST = 3
"""More panels side by side cannot be read on a page."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with what it shows."""

    path: Path
    title: str
    caption: str


class Canvas:
    """A picture that is saved when its block ends without an error."""

    def __init__(
        self, destination: Path, *, title: str, caption: str, columns: int, rows: int = 1,
        width: float = 4.2, height: float = 4.0, margin: float = 0.4,
    ) -> None:  # fmt: skip
        """Lay out panels; `caption` has the recipe and what the intervals are of."""
        require_format(destination)
        self._destination = destination
        size = (width * columns, height * rows + margin)
        self.figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.figure.suptitle(title, fontweight="bold")
        # Eight points take about a sixteenth of an inch a letter.
        room = max(40, int(size[0] * 15))
        whole = caption.replace(" %", "\N{NO-BREAK SPACE}%")
        lines = [line for part in whole.splitlines() for line in textwrap.wrap(part, room)]
        self.figure.supxlabel("\n".join(lines), fontsize=8, color=_GREY)
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
        if kind is not None:
            return
        try:
            with replacing(self._destination) as partial:
                ending = self._destination.suffix[1:].lower()
                self.figure.savefig(partial, dpi=_DOTS, format=ending)
        except OSError as failed:
            raise OutputError(
                f"{self._destination} cannot be written: {failed.strerror}. Name another file "
                "for the picture (--plot)."
            ) from failed

    def hide_from(self, used: int) -> None:
        """Leave the panels behind the first ones empty."""
        for panel in self.panels[used:]:
            panel.set_visible(False)


def require_format(destination: Path) -> None:
    """Refuse a file whose ending is that of no picture."""
    if destination.suffix.lower() not in FORMATS:
        raise OutputError(
            f"{destination} is no name of a picture: end it with {', '.join(FORMATS)}."
        )


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
    columns = min(_ABREAST, len(panels))
    rows = math.ceil(len(panels) / columns)
    with Canvas(destination, title=title, caption=caption, columns=columns, rows=rows) as canvas:
        for panel, (name, curves) in zip(canvas.panels, panels.items(), strict=False):
            _draw_curves(panel, name, curves, units[name], across.format(name))
        canvas.hide_from(len(panels))


def _draw_curves(panel: Axes, name: str, curves: Sequence[Curve], unit: str, across: str) -> None:
    colours = iter(COLOURS * (len(curves) // len(COLOURS) + 1))
    for curve in curves:
        etas = sorted(curve.points)
        points = [curve.points[eta] for eta in etas]
        values = [point.value for point in points]
        low, high = zip(*(_ends(point, unit) for point in points), strict=True)
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
    if _is_share(unit):
        panel.set_ylim(*_SHARES)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8, framealpha=0.9)


_SHARES = (-0.03, 1.03)


def _is_share(label: str) -> bool:
    """Tell from a unit, or from a label that ends with one, whether it goes from 0 to 1."""
    return label.rpartition(", ")[2].startswith("share")


def _ends(estimate: Estimate, unit: str) -> tuple[float, float]:
    """Return the interval as it is drawn: no share lies outside 0 to 1."""
    if _is_share(unit):
        return max(0.0, estimate.low), min(1.0, estimate.high)
    return estimate.low, estimate.high


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
    notes: NDArray[Any] | None = None
    """A second line in every cell, such as an interval."""
    colours: str = ""
    """A colour map of matplotlib; else blue, and vermilion for what is below the middle."""
    upwards: bool = False
    """Whether the first row is the lowest."""
    written: bool = True
    """Whether the number is written into every cell."""


def _draw_matrix(canvas: Canvas, cell: Axes, panel: LabelledMatrix) -> None:
    # Cells whose value says nothing, such as a vector beside itself, stay grey.
    cell.set_facecolor("#e4e4e4")
    two_sided = panel.low < panel.middle < panel.high
    norm: Normalize = (
        TwoSlopeNorm(panel.middle, panel.low, panel.high)
        if two_sided
        else Normalize(panel.low, panel.high)
    )
    image = cell.imshow(
        np.ma.masked_invalid(panel.values),
        norm=norm,
        cmap=panel.colours or (TWO_SIDED if panel.low < panel.middle else _ONE_SIDED),
        aspect="auto",
        origin="lower" if panel.upwards else "upper",
    )
    canvas.figure.colorbar(image, ax=cell, label=panel.unit, shrink=0.85)
    cell.set_xticks(range(len(panel.columns)), panel.columns, fontsize=8)
    if max(map(len, panel.columns)) > _SHORT:
        cell.tick_params("x", rotation=35)
        for label in cell.get_xticklabels():
            label.set_horizontalalignment("right")
    cell.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
    cell.set_title(panel.title, fontsize=10)
    cell.set_xlabel(panel.across, fontsize=9)
    cell.set_ylabel(panel.down, fontsize=9)
    if not panel.written:
        return
    for (row, column), value in np.ndenumerate(panel.values):
        if not np.isfinite(value):
            continue
        colour = _readable_on(image.to_rgba(np.array(value)))
        if panel.notes is None:
            _write(cell, _briefly(value), (column, row), colour, 8, "center")
        else:
            _write(cell, _briefly(value), (column, row), colour, 8, "bottom")
            _write(cell, str(panel.notes[row, column]), (column, row), colour, 6, "top")


def _readable_on(colour: Any) -> str:
    red, green, blue, _ = colour
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _write(
    cell: Axes, text: str, place: tuple[int, int], colour: str, size: float, side: str
) -> None:
    cell.annotate(
        text, place, color=colour, fontsize=size, ha="center", va=side,
        fontweight="bold" if side == "bottom" else "normal",
        xytext=(0, -2 if side == "top" else 0), textcoords="offset points",
    )  # fmt: skip


def _briefly(value: float) -> str:
    """Write a number with two decimals, and larger ones with fewer, so that it fits a cell."""
    size = abs(value)
    return f"{value:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


_MOST_WRITTEN = 7
"""Cells of a larger grid are too small to write in."""
_CELL = 0.62
"""Inches that an interval takes in the width of a cell."""
_NARROWEST = 0.2
"""A scale of shares spans at least this, so that noise around a constant is not blown up."""


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
    """Draw a panel per figure, all over the same settings, and save the picture."""
    columns = 2 if len(maps) == 4 else min(_ABREAST, len(maps))
    rows = math.ceil(len(maps) / columns)
    xs, ys = (sorted({key[side] for each in maps for key in each.cells}) for side in (0, 1))
    cells = min(_MOST_WRITTEN, len(xs))
    with Canvas(
        destination, title=title, caption=caption, columns=columns, rows=rows,
        width=max(3.4, _CELL * cells) + 1.3, height=3.9,
    ) as canvas:  # fmt: skip
        for panel, each in zip(canvas.panels, maps, strict=False):
            _draw_matrix(canvas, panel, _as_matrix(each, xs, ys, across, up))
        canvas.hide_from(len(maps))


def _as_matrix(
    drawn: HeatMap, xs: Sequence[float], ys: Sequence[float], across: str, up: str
) -> LabelledMatrix:
    values = np.full((len(ys), len(xs)), np.nan)
    notes = np.full(values.shape, "", dtype=object)
    for (x, y), estimate in drawn.cells.items():
        place = ys.index(y), xs.index(x)
        values[place] = estimate.value
        ends = _ends(estimate, drawn.unit)
        between = " to " if ends[0] < 0 else "\N{EN DASH}"
        notes[place] = between.join(map(_briefly, ends))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if _is_share(drawn.unit) and high - low < _NARROWEST:
        low = min(max(0.0, (low + high - _NARROWEST) / 2), 1 - _NARROWEST)
        high = low + _NARROWEST
    return LabelledMatrix(
        drawn.title, values, list(map(format_eta, ys)), list(map(format_eta, xs)), drawn.unit,
        low, low, high, f"η of {across}", f"η of {up}", notes, "viridis", upwards=True,
        written=len(xs) <= _MOST_WRITTEN and len(ys) <= _MOST_WRITTEN,
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
    """Draw every setting with its intervals; join and number those of the front.

    The caption says which they are: labels would lie upon each other and upon the line.
    """
    best = front(points, x_sign=x_sign, y_sign=y_sign)
    places: dict[tuple[float, float], list[str]] = {}
    for point in best:
        places.setdefault((point.x.value, point.y.value), []).append(point.label)
    # Lines are not broken within a setting.
    key = " · ".join(
        " or ".join(label.replace(" ", _UNBROKEN) for label in (f"{number} = {first}", *equal))
        for number, (first, *equal) in enumerate(places.values(), 1)
    )
    with Canvas(
        destination, title=title, caption=f"{key}\n{caption}", columns=1, width=7.4, height=5.4
    ) as canvas:
        (panel,) = canvas.panels
        for point in points:
            _draw_cross(panel, point, x_label, y_label)
        points = sorted(points, key=lambda point: (point.x.value, point.y.value) in places)
        on_front = [(point.x.value, point.y.value) in places for point in points]
        shaded = any(point.shade is not None for point in points)
        shown = panel.scatter(
            [point.x.value for point in points],
            [point.y.value for point in points],
            c=[point.shade or 0.0 for point in points],
            cmap="viridis" if shaded else ListedColormap([COLOURS[0]]),
            s=[_NUMBERED if each else 38 for each in on_front],
            edgecolors=[_GREY if each else "white" for each in on_front],
            linewidths=[1.2 if each else 0.6 for each in on_front],
            zorder=3,
        )
        if shaded:
            canvas.figure.colorbar(shown, ax=panel, label=shade_label, shrink=0.9)
        panel.plot(
            [x for x, _ in places],
            [y for _, y in places],
            color=_GREY,
            linewidth=1.2,
            zorder=2,
            label="front: no setting is better in both",
        )
        shades = {(point.x.value, point.y.value): point.shade or 0.0 for point in best}
        for number, place in enumerate(places, 1):
            colour = _readable_on(shown.to_rgba(np.array(shades[place])))
            panel.annotate(
                str(number), place, color=colour, fontsize=7, fontweight="bold",
                ha="center", va="center_baseline", zorder=4,
            )  # fmt: skip
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        if _is_share(x_label):
            panel.set_xlim(*_SHARES)
        if _is_share(y_label):
            panel.set_ylim(*_SHARES)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8, framealpha=0.9, loc="best")


_UNBROKEN = "\N{NO-BREAK SPACE}"
_NUMBERED = 150
"""The size of a marker that holds a number."""


def _draw_cross(panel: Axes, point: Point, x_label: str, y_label: str) -> None:
    x, y = point.x.value, point.y.value
    (left, right), (low, high) = _ends(point.x, x_label), _ends(point.y, y_label)
    panel.plot([left, right], [y, y], color="#BBBBBB", linewidth=0.7, zorder=1)
    panel.plot([x, x], [low, high], color="#BBBBBB", linewidth=0.7, zorder=1)


def draw_matrices(
    panels: Sequence[LabelledMatrix], destination: Path, *, title: str, caption: str
) -> None:
    """Draw the panels side by side, two a row, and save the picture."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = max(max(len(each.columns) * 0.85, 3.0) for each in panels) + 2.8
    height = max(max(len(each.rows) * 0.5, 1.8) for each in panels) + 1.9
    with Canvas(
        destination, title=title, caption=caption, columns=columns, rows=rows,
        width=width, height=height, margin=0.9,
    ) as canvas:  # fmt: skip
        for cell, panel in zip(canvas.panels, panels, strict=False):
            _draw_matrix(canvas, cell, panel)
        canvas.hide_from(len(panels))


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
    with Canvas(
        destination, title=title, caption=caption, columns=2, width=5.5, height=4.6
    ) as canvas:
        matrix, by_layer = canvas.panels
        names = list(map(str, seeds))
        _draw_matrix(
            canvas,
            matrix,
            LabelledMatrix(
                "cosine of two seeds", np.asarray(cosines), names, names, "cosine", -1, 0, 1,
                "seed", "seed", written=len(names) <= _WRITTEN,
            ),
        )  # fmt: skip
        _draw_layers(by_layer, layers)


def _draw_layers(panel: Axes, layers: Mapping[str, Spread]) -> None:
    places = range(len(layers))
    for place, spread in zip(places, layers.values(), strict=True):
        panel.plot(
            [spread.low, spread.high], [place, place], color=COLOURS[0], linewidth=2, alpha=0.4
        )
        panel.plot([spread.value], [place], marker="o", color=COLOURS[0], markersize=5)
    panel.set_yticks(places, list(layers))
    panel.invert_yaxis()
    panel.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_xlabel("mean cosine of two seeds")
    panel.set_title("by layer")
    panel.grid(alpha=0.25)
