"""A grid of settings that was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg.evaluation.figures import Figure
from prefreg.evaluation.grid import Grid
from prefreg.flows.measuring.evaluate import INTERVAL
from prefreg.flows.measuring.evaluator import Evaluation
from prefreg.terms import format_eta


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
    seconds: Mapping[str, float]

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


def describe_recipe(found: Sweep) -> str:
    """Say what was turned, on what, and how it was measured."""
    first = found.cells[0].evaluation
    turned = ", ".join(
        f"{axis} {format_eta(each.etas[0])} to {format_eta(each.etas[-1])}"
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
