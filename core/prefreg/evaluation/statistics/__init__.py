"""Every interval and test that is reported: the unit is always the group of prompts.

Rates have Wilson's interval on an effective number of prompts, everything else a BCa bootstrap
over groups; a training seed is a level above, and an interval over prompts alone holds for the φ
that was measured.
"""

from prefreg.evaluation.statistics.bootstrap import (
    DRAWS,
    FEWEST_GROUPS,
    Bootstrap,
    bootstrap,
    grouped_mean,
)
from prefreg.evaluation.statistics.estimates import Estimate
from prefreg.evaluation.statistics.rates import grouped_rate, rate
from prefreg.evaluation.statistics.seeds import over_seeds
from prefreg.evaluation.statistics.testing import holm, spearman

__all__ = [
    "DRAWS",
    "FEWEST_GROUPS",
    "Bootstrap",
    "Estimate",
    "bootstrap",
    "grouped_mean",
    "grouped_rate",
    "holm",
    "over_seeds",
    "rate",
    "spearman",
]
