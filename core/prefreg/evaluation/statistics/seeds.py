"""Training seeds as a level above the prompts."""

from collections.abc import Hashable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from prefreg.errors import DataError
from prefreg.evaluation.statistics.bootstrap import DRAWS, draw_weights, group_sums
from prefreg.evaluation.statistics.estimates import Estimate, t95


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

    Raises:
        DataError: There are fewer than two seeds, or fewer than two groups.
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
