"""The Pareto front: what of one figure costs of another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.patheffects import withStroke

from prefreg.evaluation.pictures.canvas import COLOURS, Canvas
from prefreg.evaluation.statistics import Estimate


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
