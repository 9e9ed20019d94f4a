"""Pictures of a sweep: one panel per axis, effect against η with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prefreg.evaluation.statistics import Estimate

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: safe for colour-blind


@dataclass(frozen=True, slots=True)
class Curve:
    """One measured quantity against η."""

    label: str
    points: Mapping[float, Estimate]


def draw_curves(
    panels: Mapping[str, Sequence[Curve]],
    destination: Path,
    *,
    title: str,
    caption: str,
    units: Mapping[str, str],
) -> None:
    """Draw a panel per axis and save the picture.

    `units` names each panel's vertical axis; `caption` holds the recipe, below the panels.
    """
    figure = Figure(figsize=(4.2 * len(panels), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontweight="bold")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        _draw_panel(panel, name, curves, units[name])
    figure.supxlabel(caption, fontsize=8, color="#444444")
    figure.savefig(destination, dpi=150)


def _draw_panel(panel: Axes, name: str, curves: Sequence[Curve], unit: str) -> None:
    for curve, colour in zip(curves, _COLOURS, strict=False):
        etas = sorted(curve.points)
        points = [curve.points[eta] for eta in etas]
        values, low, high = zip(
            *((point.value, point.low, point.high) for point in points), strict=True
        )
        panel.plot(etas, values, marker="o", markersize=4, color=colour, label=curve.label)
        panel.fill_between(etas, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_xlabel(f"η of {name}")
    panel.set_ylabel(unit)
    panel.set_title(name)
    if unit.startswith("share"):
        panel.set_ylim(-0.03, 1.03)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8, framealpha=0.9)
