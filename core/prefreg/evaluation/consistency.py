"""How much of a vector every seed finds again: signal and noise, by inner products alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefreg.evaluation.statistics.jackknife import Spread, over_seeds, spearman_brown

Matrix = npt.NDArray[np.float64]
"""A row and a column for each vector."""

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the vectors of several seeds share, φ_s = μ + ε_s."""

    signal: Spread
    """‖μ‖²: the mean of ⟨φ_s, φ_t⟩ over s ≠ t, which no noise of a single seed enters."""
    noise: Spread
    """The mean of ‖φ_s‖², less the signal."""
    share: Spread
    """Signal over both; about the cosine to be expected between two seeds."""
    cosine: Spread
    """The mean over s ≠ t."""
    averaged: float
    """The share of signal in the mean of all these vectors, by Spearman and Brown."""


def signal(products: Matrix) -> float:
    """Return the mean inner product of two different vectors."""
    count = len(products)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


def power(products: Matrix) -> float:
    """Return the mean square of a vector's length."""
    return float(np.trace(products) / len(products))


def share(products: Matrix) -> float:
    """Return the share of signal in the mean square; 0 where every vector is zero."""
    whole = power(products)
    return signal(products) / whole if whole else 0.0


def cosines(products: Matrix) -> Matrix:
    """Return the cosine of every two vectors; with one of zeros it is 0."""
    lengths = np.sqrt(np.clip(np.diag(products), 0, None))
    lengths = np.where(lengths > 0, lengths, np.inf)
    turned: Matrix = products / np.outer(lengths, lengths)
    return turned


def agreement(products: Matrix) -> Agreement:
    """Measure what the vectors of two or more seeds share."""
    count = len(products)

    def part(chosen: Sequence[int]) -> Matrix:
        return products[np.ix_(chosen, chosen)]

    return Agreement(
        signal=over_seeds(count, lambda seeds: signal(part(seeds))),
        noise=over_seeds(count, lambda seeds: power(part(seeds)) - signal(part(seeds))),
        share=over_seeds(count, lambda seeds: share(part(seeds))),
        cosine=mean_cosine(products),
        averaged=spearman_brown(share(products), count),
    )


def mean_cosine(products: Matrix) -> Spread:
    """Measure the mean cosine of two different vectors."""
    turned = cosines(products)
    return over_seeds(len(turned), lambda seeds: signal(turned[np.ix_(seeds, seeds)]))


def by_layer(products: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Add up the inner products of the tensors of each layer, in the order of the model.

    A tensor outside of the layers (embeddings, the last norm, the head) stands alone.
    """
    found: dict[str, Matrix] = {}
    for name, matrix in sorted(products.items(), key=lambda item: _place(item[0])):
        layer = _LAYER.search(name)
        key = f"layer {layer[1]}" if layer else name.removesuffix(".weight")
        found[key] = found.get(key, np.zeros_like(matrix)) + matrix
    return found


def _place(name: str) -> tuple[int, int, str]:
    layer = _LAYER.search(name)
    return (1, int(layer[1]), "") if layer else (0, 0, name)


@dataclass(frozen=True, slots=True)
class Energy:
    """What both poles did alike, and what they did against each other."""

    common: Spread
    """The mean of ‖(δ₊ + δ₋)/2‖², with δ± = θ± − θ_base."""
    differential: Spread
    """The mean of ‖(δ₊ − δ₋)/2‖², which is ‖φ‖²/4."""
    share: Spread
    """Of the differential part in both."""


def energy(poles: Sequence[tuple[float, float, float]]) -> Energy:
    """Split the mean square length of the poles' changes, given as ‖δ₊‖, ‖δ₋‖ and their cosine."""
    squares = np.array([[plus**2 + minus**2, plus * minus * angle] for plus, minus, angle in poles])
    common = (squares[:, 0] + 2 * squares[:, 1]) / 4
    opposed = (squares[:, 0] - 2 * squares[:, 1]) / 4

    def mean(values: Matrix) -> Spread:
        return over_seeds(len(values), lambda seeds: float(values[list(seeds)].mean()), smallest=1)

    def part(seeds: Sequence[int]) -> float:
        chosen = list(seeds)
        return float(opposed[chosen].sum() / (common + opposed)[chosen].sum())

    return Energy(mean(common), mean(opposed), over_seeds(len(poles), part, smallest=1))


def effect_correlation(effects: Matrix) -> Spread:
    """Measure how alike the effects of seeds (rows) are over prompts (columns), mean over s ≠ t.

    Raises:
        ValueError: The effects of a seed are the same for every prompt.
    """
    if not np.all(effects.std(axis=1) > 0):
        raise ValueError("the effects of a seed do not vary")
    turned: Matrix = np.asarray(np.corrcoef(effects))
    return over_seeds(len(turned), lambda seeds: signal(turned[np.ix_(seeds, seeds)]))
