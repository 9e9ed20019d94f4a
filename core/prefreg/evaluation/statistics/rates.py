"""Rates with Wilson's score interval, also where prompts come in groups."""

from collections.abc import Hashable, Sequence
from math import sqrt

import numpy as np

from prefreg.errors import DataError
from prefreg.evaluation.statistics.estimates import Z95, Estimate, t95


def rate(hits: int, count: int) -> Estimate:
    """Estimate a rate of independent observations (Wilson 1927).

    Raises:
        DataError: There is no observation.
    """
    if count <= 0:
        raise DataError("A rate needs at least one observation; there is none.")
    low, high = _wilson(hits / count, count)
    return Estimate(hits / count, low, high, count)


def grouped_rate(hits: Sequence[bool], groups: Sequence[Hashable]) -> Estimate:
    """Estimate a rate of observations in groups, on the number of them that counts.

    That number is what as many independent observations would have for a variance, never more
    than there are (Korn and Graubard 1998). Where all agree, a group counts once.

    Raises:
        DataError: There is no observation.
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
