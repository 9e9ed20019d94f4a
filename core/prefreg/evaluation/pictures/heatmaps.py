"""Heat maps: two dials against each other, the figure and its interval in every cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from prefreg.evaluation.pictures.canvas import Canvas
from prefreg.evaluation.statistics import Estimate
from prefreg.terms import format_eta

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
            _draw_panel(canvas, panel, each, across, up)
        for panel in canvas.panels[len(maps) :]:
            panel.set_visible(False)


def _draw_panel(canvas: Canvas, panel: Axes, drawn: HeatMap, across: str, up: str) -> None:
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
