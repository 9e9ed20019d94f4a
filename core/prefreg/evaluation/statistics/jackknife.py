"""How sure a figure is that was computed from a few seeds: the jackknife, or the plain range."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Literal

from prefreg.evaluation.statistics.estimates import t95

JACKKNIFE_SEEDS = 5
"""With fewer, a variance of what is left out says next to nothing, and the range is reported."""

Statistic = Callable[[Sequence[int]], float]
"""A figure of some of the seeds, given by their places."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds with its uncertainty."""

    value: float
    low: float
    high: float
    kind: Literal["jackknife", "range"]
    """A 95 % interval of the jackknife, or the extremes over pairs of seeds, which is none."""

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def over_seeds(count: int, statistic: Statistic, *, smallest: int = 2) -> Spread:
    """Compute a figure of all seeds, and leave out one at a time to see how it varies.

    Below five seeds the extremes over all sets of `smallest` seeds are given instead.

    Raises:
        ValueError: There are fewer seeds than the figure needs.
    """
    if count < smallest:
        raise ValueError(f"the figure needs {smallest} seeds, not {count}")
    everything = range(count)
    value = statistic(everything)
    if count < JACKKNIFE_SEEDS:
        values = [statistic(chosen) for chosen in combinations(everything, smallest)]
        return Spread(value, min(values), max(values), "range")
    half = t95(count - 1) * jackknife_error(count, statistic)
    return Spread(value, value - half, value + half, "jackknife")


def jackknife_error(count: int, statistic: Statistic) -> float:
    """Return the standard error √((n − 1)/n · Σ(θᵢ − mean θ)²) of leaving out one (Tukey 1958)."""
    left = [statistic([each for each in range(count) if each != out]) for out in range(count)]
    middle = sum(left) / count
    return sqrt((count - 1) / count * sum((value - middle) ** 2 for value in left))


def spearman_brown(correlation: float, times: float) -> float:
    """Predict what a correlation becomes with `times` as much data (Spearman and Brown 1910).

    One of zero or less stays as it is: where nothing is shared, more data cannot add to it.
    """
    return (
        correlation if correlation <= 0 else times * correlation / (1 + (times - 1) * correlation)
    )
