"""Do 95 % intervals cover the truth in 95 % of draws? `python benchmarks/intervals.py`.

Every row simulates 1,000 data sets of a known truth and counts how often its interval holds it.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from prefreg.evaluation.statistics import Estimate, grouped_mean, grouped_rate, over_seeds

GROUPS = (8, 12, 20, 40, 100)
Make = Callable[[np.random.Generator, int], Estimate]


def normal(generator: np.random.Generator, groups: int) -> Estimate:
    """Estimate 0 from normal values."""
    return grouped_mean(generator.normal(size=groups), range(groups))


def clustered(generator: np.random.Generator, groups: int) -> Estimate:
    """Estimate 0 from three values a group that share most of what they are."""
    effects = np.repeat(generator.normal(size=groups), 3)
    owners = np.repeat(np.arange(groups), 3).tolist()
    return grouped_mean(effects + generator.normal(size=3 * groups), owners)


def skewed(generator: np.random.Generator, groups: int) -> Estimate:
    """Estimate 0 from exponential values."""
    return grouped_mean(generator.exponential(size=groups) - 1, range(groups))


def change_of_rates(generator: np.random.Generator, groups: int) -> Estimate:
    """Estimate 0 from paired answers of two settings that depend on how easy the prompt is."""
    ease = generator.random(groups)
    change = (ease < 0.6) * 1.0 - (ease < 0.4) * 1.0 - 0.2
    return grouped_mean(change, range(groups))


def rate_in_groups(generator: np.random.Generator, groups: int) -> Estimate:
    """Estimate a rate of .6 where half of the groups are easy."""
    easy = np.repeat(generator.random(groups) < 0.5, 6)
    hits = generator.random(6 * groups) < np.where(easy, 0.9, 0.3)
    found = grouped_rate(hits.tolist(), np.repeat(np.arange(groups), 6).tolist())
    return Estimate(found.value - 0.6, found.low - 0.6, found.high - 0.6, found.count)


def seeds_of(count: int) -> Make:
    """Return the estimate over training seeds."""

    def make(generator: np.random.Generator, groups: int) -> Estimate:
        prompts = generator.normal(size=groups)
        by_seed = [
            0.5 * generator.normal() + prompts + generator.normal(size=groups) for _ in range(count)
        ]
        return over_seeds(by_seed, range(groups), draws=2000)

    return make


ROWS: dict[str, Make] = {
    "mean, normal": normal,
    "mean, three rows a group": clustered,
    "mean, exponential": skewed,
    "paired change of rates": change_of_rates,
    "rate, six rows a group": rate_in_groups,
    "mean over 3 seeds": seeds_of(3),
    "mean over 5 seeds": seeds_of(5),
}


def coverage(make: Make, groups: int, repetitions: int) -> float:
    """Return the share of intervals that hold 0."""
    generator = np.random.default_rng(0)
    found = [make(generator, groups) for _ in range(repetitions)]
    return float(np.mean([each.low <= 0 <= each.high for each in found]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    options = parser.parse_args(arguments)
    print("| interval of a | " + " | ".join(f"{groups} groups" for groups in GROUPS) + " |")
    print("|---" * (len(GROUPS) + 1) + "|")
    for name, make in ROWS.items():
        cells = [f"{coverage(make, groups, options.repetitions):.3f}" for groups in GROUPS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
