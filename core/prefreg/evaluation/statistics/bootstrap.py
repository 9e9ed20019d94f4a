"""The BCa bootstrap over groups of prompts (Efron 1987), for any statistic of sums."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefreg.errors import DataError
from prefreg.evaluation.statistics.estimates import NORMAL, Estimate, widened

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

    Raises:
        DataError: There are too few groups.
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

    Raises:
        DataError: There are fewer groups than `FEWEST_GROUPS`, or the statistic is mostly not
            defined.
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
