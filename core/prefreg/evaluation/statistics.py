"""Every interval and test that is reported: the unit is always the group of prompts.

Rates have Wilson's interval on an effective number of prompts, everything else a BCa bootstrap
over groups; a training seed is a level above, and an interval over prompts alone holds for the φ
that was measured.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefreg.errors import DataError

NORMAL = NormalDist()
Z95 = NORMAL.inv_cdf(0.975)
_T95 = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return show(self)

    def to_json(self) -> dict[str, float]:
        """Return the figure and its interval in a form that JSON can hold."""
        return {"value": self.value, "low": self.low, "high": self.high}


def show(estimate: Estimate | None, digits: int = 2) -> str:
    """Write an estimate with its interval."""
    if estimate is None:
        return "-"
    low, high = estimate.low, estimate.high
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def t95(freedom: int) -> float:
    """Return the .975 quantile of Student's t, to four digits."""
    if freedom in _T95:
        return _T95[freedom]
    # The expansion of Cornish and Fisher; from five degrees on its error is below .0005.
    z, n = Z95, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def widened(units: int) -> float:
    """Return the normal quantile that a bootstrap of so few units needs (Hesterberg 2015).

    Drawing n units with replacement understates their variance by (n − 1)/n, and estimates it no
    better than a t test does.
    """
    return t95(units - 1) * sqrt(units / (units - 1))


DRAWS = 10_000
FEWEST_GROUPS = 5
"""With fewer groups a bootstrap has too few distinct draws to tell a tail of 2.5 %."""
_FEWEST_DEFINED = 0.9
_CHUNK = 1 << 22
"""Counts drawn at a time, which take 32 MiB."""

Array = NDArray[np.float64]
Statistic = Callable[[Array], Any]
"""From sums over prompts (the last dimension: one a column) to the figure."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """An estimate with the probability of so large a value if the truth were 0."""

    estimate: Estimate
    p: float
    """Two-sided, from the draws on the other side of 0; at least 1 / (draws + 1)."""


def grouped_mean(
    values: ArrayLike, groups: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Estimate a mean; rows of one group (one prompt) are drawn together.

    Given differences of two settings on the same prompts, this is the paired bootstrap.
    """
    column = np.asarray(values, dtype=np.float64)
    table = np.stack([column, np.ones_like(column)], axis=1)
    return bootstrap(table, groups, ratio, draws=draws, seed=seed).estimate


def ratio(sums: Array) -> Any:
    """Divide the first sum by the second."""
    return sums[..., 0] / sums[..., 1]


def ratio_change(sums: Array) -> Any:
    """Subtract the ratio of the last two sums from that of the first two."""
    return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]


def bootstrap(
    table: Array,
    groups: Sequence[Hashable],
    statistic: Statistic,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Bootstrap:
    """Estimate a statistic of the columns' sums, drawing whole groups of rows.

    The interval is BCa, at the quantiles that so few groups need; see `widened`.
    """
    if len(table) != len(groups):
        raise ValueError("values and groups differ in length")
    sums = group_sums(table, groups)
    if len(sums) < FEWEST_GROUPS:
        raise DataError(
            f"A bootstrap over groups of prompts needs at least {FEWEST_GROUPS} groups, this "
            f"figure has {len(sums)}: ask for more prompts."
        )
    total = sums.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(total))
        left_out = statistic(total - sums)
        drawn = np.concatenate([statistic(w @ sums) for w in _weights(len(sums), draws, seed)])
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if not np.isfinite(value) or len(drawn) < _FEWEST_DEFINED * draws:
        raise DataError(
            "A ratio has too little to divide by in most draws of its prompts: ask for more."
        )
    low, high = _bca(value, drawn, left_out, len(sums))
    beyond = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return Bootstrap(Estimate(value, low, high, len(table)), p)


def group_sums(table: Array, groups: Sequence[Hashable]) -> Array:
    """Add the rows of each group, in the order in which the groups occur."""
    order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    member = np.array([order[group] for group in groups], dtype=np.intp)
    return np.stack(
        [np.bincount(member, weights=column, minlength=len(order)) for column in table.T], axis=1
    )


def _bca(value: float, drawn: Array, left_out: Array, units: int) -> tuple[float, float]:
    # What rounds to the same figure is the same figure: sums are added in another order.
    same = np.isclose(drawn, value, rtol=1e-12, atol=1e-12)
    if same.all():
        return value, value
    below = (np.count_nonzero((drawn < value) & ~same) + np.count_nonzero(same) / 2) / len(drawn)
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    deviations = left_out.mean() - left_out
    spread = float((deviations**2).sum())
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5) if spread else 0.0
    levels = []
    for quantile in (-widened(units), widened(units)):
        shifted = bias + quantile
        scale = 1 - acceleration * shifted
        # Where the correction has no value, its limit is the end of the draws.
        level = bias + shifted / scale if scale > 0 else shifted * 1e3
        levels.append(NORMAL.cdf(level))
    low, high = np.quantile(drawn, levels)
    return min(float(low), value), max(float(high), value)


def _weights(units: int, draws: int, seed: int) -> Iterator[Array]:
    """Yield how often each unit is drawn; the same for every figure of as many units."""
    step = max(1, _CHUNK // units)
    if step >= draws:
        yield _kept_weights(units, draws, seed)
        return
    for number, start in enumerate(range(0, draws, step)):
        yield draw_weights(units, min(step, draws - start), (seed, number))


@lru_cache(maxsize=8)
def _kept_weights(units: int, draws: int, seed: int) -> Array:
    return draw_weights(units, draws, (seed, 0))


def draw_weights(units: int, draws: int, seed: tuple[int, int]) -> Array:
    """Draw as many of the units as there are, with replacement, and count each: one row a draw."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(units, size=(draws, units))
    drawn += np.arange(draws)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=draws * units)
    return counts.reshape(draws, units).astype(np.float64)


def rate(hits: int, count: int) -> Estimate:
    """Estimate a rate of independent observations (Wilson 1927)."""
    if count <= 0:
        raise DataError("A rate needs at least one observation; there is none.")
    low, high = _wilson(hits / count, count)
    return Estimate(hits / count, low, high, count)


def grouped_rate(hits: Sequence[bool], groups: Sequence[Hashable]) -> Estimate:
    """Estimate a rate of observations in groups, on the number of them that counts.

    That number is what as many independent observations would have for a variance, never more
    than there are (Korn and Graubard 1998). Where all agree, a group counts once.
    """
    if not hits:
        raise DataError("A rate needs at least one observation; there is none.")
    _, member = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(hits, dtype=np.float64))
    sizes = np.bincount(member).astype(np.float64)
    count, units = len(hits), len(sizes)
    share = float(sums.sum() / count)
    if units == count:
        return Estimate(share, *_wilson(share, count), count)
    effective = float(units)
    if 0 < share < 1 and units > 1:
        deviations = sums - share * sizes
        variance = units / (units - 1) * float(deviations @ deviations) / count**2
        alone = share * (1 - share) / count
        effective = count / max(variance / alone, 1.0) * (Z95 / t95(units - 1)) ** 2
    return Estimate(share, *_wilson(share, effective), count)


def _wilson(share: float, count: float) -> tuple[float, float]:
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    spread = share * (1 - share) / count + Z95**2 / (4 * count**2)
    half = Z95 / (1 + Z95**2 / count) * sqrt(spread)
    # At 0 and 1 the bound is the rate itself; rounding must not push it across.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def over_seeds(
    by_seed: Sequence[ArrayLike],
    groups: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean over training seeds of what was measured on the same prompts.

    Every draw takes seeds with replacement and, apart from that, groups of prompts. The interval is
    Student's t on the standard error of the draws, with the degrees of freedom that the two levels
    leave (Satterthwaite 1946). So it speaks of φs that were not trained, which an interval over
    prompts alone does not.
    """
    if len(by_seed) < 2:
        raise DataError(
            f"An interval over training seeds needs at least 2 of them, there are {len(by_seed)}: "
            "train the axis with another --seed."
        )
    values = np.stack([np.asarray(column, dtype=np.float64) for column in by_seed], axis=1)
    sums, sizes = group_sums(values, groups), group_sums(np.ones((len(values), 1)), groups)
    units, seeds = len(sums), values.shape[1]
    if units < 2:
        raise DataError("An interval over prompts needs at least 2 groups of prompts.")
    of_prompts = draw_weights(units, draws, (seed, 0))
    means = (of_prompts @ sums) / (of_prompts @ sizes)
    of_seeds = draw_weights(seeds, draws, (seed, 1)) / seeds
    drawn = (of_seeds * means).sum(axis=1)
    between = float(values.mean(axis=0).var(ddof=1)) / seeds
    within = float(means.mean(axis=1).var())
    # Drawing n of n understates the variance between seeds by (n − 1)/n.
    variance = float(drawn.var()) + between / seeds
    value = float(values.mean())
    if not variance:
        return Estimate(value, value, value, seeds)
    freedom = (between + within) ** 2 / (between**2 / (seeds - 1) + within**2 / (units - 1))
    half = t95(max(1, int(freedom))) * sqrt(variance)
    return Estimate(value, value - half, value + half, seeds)


JACKKNIFE_SEEDS = 5
"""With fewer, a variance of what is left out says next to nothing, and the range is reported."""


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


def jackknife(
    count: int, statistic: Callable[[Sequence[int]], float], *, smallest: int = 2
) -> Spread:
    """Compute a figure of all seeds, given by their places, and leave out one at a time.

    Below five seeds the extremes over all sets of `smallest` seeds are given instead.
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


def jackknife_error(count: int, statistic: Callable[[Sequence[int]], float]) -> float:
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


Name = TypeVar("Name", bound=Hashable)


def holm(probabilities: Mapping[Name, float]) -> dict[Name, float]:
    """Adjust the probabilities of a family of tests (Holm 1979).

    Rejecting what stays below .05 then errs in one family of twenty, whatever their dependence.
    """
    adjusted: dict[Name, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(probabilities, key=lambda name: probabilities[name])):
        highest = max(highest, min(1.0, (len(probabilities) - place) * probabilities[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in probabilities}


def spearman(values: ArrayLike) -> float:
    """Return the rank correlation with the order given; ties share their mean rank."""
    column = np.asarray(values, dtype=np.float64)
    ordered = np.sort(column)
    first, last = (np.searchsorted(ordered, column, side) for side in ("left", "right"))
    ranks = (first + last - len(column)) / 2  # from their middle
    steps = np.arange(len(column)) - (len(column) - 1) / 2
    spread = float(ranks @ ranks)
    return float(ranks @ steps / (spread * (steps @ steps)) ** 0.5) if spread else 0.0
