"""Which experiments there are; nothing heavy is loaded to list them."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefreg.axes.base_world import BaseWorld
from prefreg.checkpoints.bundled import DEFAULT_BASE, world_of
from prefreg.errors import UsageError

if TYPE_CHECKING:
    from prefreg.evaluation.paper.run_folder import Findings


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment by its name."""

    name: str
    summary: str
    paper: str
    """What of the paper it repeats."""
    minutes: int
    """On the bundled model, one core, with what it does by default."""
    fewest: int = 1
    most: int = 99
    """How many axes it takes."""
    module: str | None = None
    """Where it stands, if not in the module of its name."""
    function: str = "run"

    @property
    def count(self) -> str:
        """Say how many axes it takes."""
        return f"{self.fewest} axes" if self.fewest == self.most else f"{self.fewest} axes or more"

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold, with the axes that it is about by default."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "minutes": self.minutes,
            "axes": list(experiment_axes(self.name)),
        }

    def load(self) -> Callable[[Any], "Findings"]:
        """Import what carries it out, given its `ExperimentRun`, and with that torch."""
        module = import_module(f"prefreg.evaluation.paper.{self.module or self.name}")
        run: Callable[[Any], Findings] = getattr(module, self.function)
        return run


EXPERIMENTS = (
    Experiment(
        "extraction",
        "Each vector alone moves its own metric, both ways.",
        "Single-preference extraction",
        10,
        module="steering",
        function="run_extraction",
    ),
    Experiment(
        "grid",
        "Two dials together, on a grid of 5 by 5 settings.",
        "Controllability of helpfulness and harmlessness",
        7,
        fewest=2,
        most=2,
        module="steering",
        function="run_grid",
    ),
    Experiment(
        "extension",
        "A third axis is added; the old vectors are not touched, and their dials still work.",
        "Extension to new preferences",
        6,
        fewest=3,
        most=3,
        module="more_axes",
        function="run_extension",
    ),
    Experiment(
        "correlation",
        "Labels of two axes that agree more and more: do the vectors stay apart?",
        "Robustness to correlated preferences",
        12,
        fewest=2,
        most=2,
    ),
    Experiment(
        "stacking",
        "More and more axes at once: what is left of each dial, and what it costs.",
        "More than three preferences",
        10,
        fewest=3,
        module="more_axes",
        function="run_stacking",
    ),
    Experiment(
        "retention",
        "Knowledge at η up to 8: where does it fall to chance?",
        "Knowledge retention by η",
        5,
    ),
    Experiment(
        "commonsense",
        "Tasks of lm-eval at η up to 8.",
        "CommonsenseQA by η",
        10,
        module="retention",
        function="run_commonsense",
    ),
)


def find_experiment(name: str) -> Experiment:
    """Find an experiment by its name."""
    known = {each.name: each for each in EXPERIMENTS}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"There is no experiment {name!r}: {', '.join(known)}.{meant}")
    return known[name]


def experiment_axes(name: str, world: BaseWorld | None = None) -> tuple[str, ...]:
    """Return the axes that an experiment is about in a world, or in that of the default base."""
    known = world or world_of(DEFAULT_BASE)
    return () if known is None else known.axes_of(name)
