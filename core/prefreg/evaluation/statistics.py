"""Intervals: Wilson's for rates, the bootstrap over prompt groups for means."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def rate(hits: int, count: int) -> Estimate:
    """Estimate a rate with Wilson's score interval (Wilson 1927).

    Raises:
        ValueError: There is no observation.
    """
    if count <= 0:
        raise ValueError("a rate needs at least one observation")
    share = hits / count
    centre = (share + _Z95**2 / (2 * count)) / (1 + _Z95**2 / count)
    spread = share * (1 - share) / count + _Z95**2 / (4 * count**2)
    half = _Z95 / (1 + _Z95**2 / count) * sqrt(spread)
    # At 0 and 1 the bound is the rate itself; rounding must not push it across.
    low, high = min(share, centre - half), max(share, centre + half)
    return Estimate(share, max(0.0, low), min(1.0, high), count)


def grouped_mean(
    values: Sequence[float],
    groups: Sequence[Hashable],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Estimate a mean with a percentile bootstrap that draws whole groups.

    Rows of one group (one prompt) are not independent, so the group is the unit that is drawn.

    Raises:
        ValueError: There are fewer than two groups, or the lengths differ.
    """
    if len(values) != len(groups):
        raise ValueError("values and groups differ in length")
    order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    if len(order) < 2:
        raise ValueError("a bootstrap over groups needs at least two groups")
    member = np.array([order[group] for group in groups])
    sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(member)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(order), size=(draws, len(order)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(np.mean(values)), float(low), float(high), len(values))


def spearman(values: Sequence[float]) -> float:
    """Return the rank correlation with the order given; ties share their mean rank."""
    ranks = [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]
    middle = (len(values) - 1) / 2
    spread = sum((rank - middle) ** 2 for rank in ranks)
    steps = sum((index - middle) ** 2 for index in range(len(values)))
    both = sum((index - middle) * (rank - middle) for index, rank in enumerate(ranks))
    return float(both / (spread * steps) ** 0.5) if spread else 0.0
