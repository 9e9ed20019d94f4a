"""A Gaussian process per figure on what the functional geometry expects of it.

Exact, in float64, for the tens to hundreds of settings that a study measures. A figure is modelled
on its scale without ends (a saturating link), as prior mean + residual; the residual has a linear
and a Matérn-5/2 part, with a length scale a dial (Rasmussen and Williams 2006, 4.2 and 5.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Prior = Callable[[Array], Array]
"""From settings × dials to the level that is expected of each setting."""

_ROOT5 = 5**0.5
_JITTER = 1e-8
_LENGTH, _LENGTH_SPREAD = 1.5, 0.7
"""Median and log spread that are expected of a length scale, where a dial's range is 2 long."""
_SIZE, _SIZE_SPREAD = 0.5, 1.0
"""Of a residual, in units of the level: log-odds, logarithms, standard deviations."""
_NOISE, _NOISE_SPREAD = 0.5, 0.7
"""Of the part of a standard error that settings do not share: all meet the same prompts and the
same chance."""
_STEPS = 40


@dataclass(frozen=True)
class Surrogate:
    """What is known of one figure at every setting, dials scaled to −1…1."""

    prior: Prior
    points: Array
    """Settings × dials that were measured."""
    levels: Array
    errors: Array
    """Standard error of each level."""
    logs: Array
    """Logarithms of the Matérn part's size, the linear part's, the share of the errors that is a
    setting's own, and of the length scale of each dial."""

    @classmethod
    def fit(
        cls,
        prior: Prior,
        points: Array,
        levels: Array,
        errors: Array,
        start: Array | None = None,
    ) -> "Surrogate":
        """Find the likeliest scales under their priors, from `start` where there is one."""
        dials = points.shape[1]
        expected = np.log([_SIZE, _SIZE, _NOISE, *[_LENGTH] * dials])
        spreads = np.array([_SIZE_SPREAD, _SIZE_SPREAD, _NOISE_SPREAD, *[_LENGTH_SPREAD] * dials])
        logs = expected.copy() if start is None else start.copy()
        best, highest = logs, -np.inf
        # Rprop: signs of the gradient alone, so that no step depends on a scale of the likelihood.
        sizes, before = np.full(len(logs), 0.2), np.zeros(len(logs))
        residual = levels - prior(points)
        for _ in range(_STEPS):
            value, slope = _likelihood(points, residual, errors, logs)
            off = (logs - expected) / spreads
            value -= 0.5 * float(off @ off)
            slope -= off / spreads
            if value > highest:
                best, highest = logs.copy(), value
            agree = slope * before
            sizes = np.clip(np.where(agree > 0, sizes * 1.2, sizes * 0.5), 1e-4, 0.5)
            before = np.where(agree < 0, 0.0, slope)
            logs = np.clip(logs + np.sign(before) * sizes, -7.0, 4.0)
            if sizes.max() < 1e-3:
                break
        return cls(prior, points, levels, errors, best)

    def with_point(self, point: Array, level: float, error: float) -> "Surrogate":
        """Add one setting and leave the scales as they are."""
        return Surrogate(
            self.prior,
            np.vstack([self.points, point]),
            np.append(self.levels, level),
            np.append(self.errors, error),
            self.logs,
        )

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the level at settings × dials."""
        expected, own = self.prior(at), _own_variance(at, self.logs)
        if not len(self.points):
            return expected, np.sqrt(own)
        factor, weights = self._solved
        cross = _kernel(at, self.points, self.logs)
        mean = expected + cross @ weights
        half = np.linalg.solve(factor, cross.T)
        return mean, np.sqrt(np.maximum(own - (half**2).sum(0), 1e-12))

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        """The Cholesky factor of what was measured, and the weight of each of its residuals."""
        matrix = _kernel(self.points, self.points, self.logs)
        noise = np.exp(2 * self.logs[2]) * self.errors**2
        matrix[np.diag_indices(len(matrix))] += noise + _JITTER
        factor = np.linalg.cholesky(matrix)
        residual = self.levels - self.prior(self.points)
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, residual))
        return np.asarray(factor), np.asarray(weights)


def _distances(first: Array, second: Array, logs: Array) -> Array:
    """Return the squared distance along each dial in units of its length scale."""
    scaled = (first[:, None, :] - second[None, :, :]) / np.exp(logs[3:])
    return np.asarray(scaled**2)


def _matern(squares: Array) -> tuple[Array, Array]:
    """Return the kernel of size 1, and its derivative by the log of a length scale, over the
    squared distance along it."""
    root = _ROOT5 * np.sqrt(squares)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, 5 / 3 * (1 + root) * decay


def _kernel(first: Array, second: Array, logs: Array) -> Array:
    kernel, _ = _matern(_distances(first, second, logs).sum(2))
    return np.asarray(np.exp(2 * logs[0]) * kernel + np.exp(2 * logs[1]) * (first @ second.T))


def _own_variance(at: Array, logs: Array) -> Array:
    return np.asarray(np.exp(2 * logs[0]) + np.exp(2 * logs[1]) * (at**2).sum(1))


def _likelihood(points: Array, residual: Array, errors: Array, logs: Array) -> tuple[float, Array]:
    """Return the log likelihood of the residuals, and its gradient by the logs."""
    squares = _distances(points, points, logs)
    kernel, slope = _matern(squares.sum(2))
    matern = np.exp(2 * logs[0]) * kernel
    linear = np.exp(2 * logs[1]) * (points @ points.T)
    noise = np.exp(2 * logs[2]) * errors**2
    matrix = matern + linear
    matrix[np.diag_indices(len(matrix))] += noise + _JITTER
    factor = np.linalg.cholesky(matrix)
    inverse = np.linalg.inv(matrix)
    weights = inverse @ residual
    value = -0.5 * float(residual @ weights) - float(np.log(np.diag(factor)).sum())
    # Rasmussen and Williams 2006, equation 5.9.
    outer = np.outer(weights, weights) - inverse
    by_length = np.exp(2 * logs[0]) * np.einsum("ij,ij,ijk->k", outer, slope, squares)
    gradient = np.array(
        [
            (outer * matern).sum(),
            (outer * linear).sum(),
            float(np.diag(outer) @ noise),
            *(0.5 * by_length),
        ]
    )
    return value, gradient
