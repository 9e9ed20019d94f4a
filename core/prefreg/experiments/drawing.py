"""Curves of an experiment, with what could not be measured left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefreg.evaluation.pictures import Curve, draw_curves
from prefreg.experiments.findings import Drawn, Findings
from prefreg.experiments.laboratory import Laboratory


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that share a vertical axis."""

    unit: str
    curves: Sequence[Curve]


def add_curves(
    found: Findings,
    lab: Laboratory,
    panels: Mapping[str, Panel],
    *,
    title: str,
    legend: str,
    across: str = "η of {}",
) -> None:
    """Draw a panel for each title, unless no curve of it has a point, with the recipe below."""
    full = {
        name: Panel(panel.unit, kept)
        for name, panel in panels.items()
        if (kept := [curve for curve in panel.curves if curve.points])
    }
    if not full:
        found.notes.append(f"There is no picture of {title!r}: too few prompts count.")
        return
    path = lab.folder / f"{lab.request.name}.png"
    draw_curves(
        {name: panel.curves for name, panel in full.items()},
        path,
        title=title,
        caption=found.recipe,
        units={name: panel.unit for name, panel in full.items()},
        across=across,
    )
    found.pictures.append(Drawn(path, title, legend))
