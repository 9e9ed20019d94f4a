"""Curves: one panel per axis, effect against η with its interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from prefreg.evaluation.pictures.canvas import COLOURS, Canvas
from prefreg.evaluation.statistics import Estimate

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
            _draw_panel(panel, name, curves, units[name], across.format(name))
        for panel in canvas.panels[len(panels) :]:
            panel.set_visible(False)


def _draw_panel(panel: Axes, name: str, curves: Sequence[Curve], unit: str, across: str) -> None:
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
