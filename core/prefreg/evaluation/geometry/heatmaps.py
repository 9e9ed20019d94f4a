"""Pictures of matrices between vectors: one panel a matrix, every cell with its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from prefreg.evaluation.pictures.saving import save_plot


@dataclass(frozen=True, slots=True)
class HeatMap:
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


def draw_heatmaps(
    panels: Sequence[HeatMap], destination: Path, *, title: str, caption: str
) -> None:
    """Draw the panels side by side, two a row, and save the picture.

    Raises:
        OutputError: The file cannot be written.
    """
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


def _draw(figure: Figure, cell: Axes, panel: HeatMap) -> None:
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
