"""A figure with its interval, and the quantiles that intervals are made of."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

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
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


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
