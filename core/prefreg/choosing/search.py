"""Where to measure next: constrained expected improvement over surrogates, several points at once.

Everything is on the scales without ends of `gauges`, dials are scaled to −1…1 over their ranges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prefreg.choosing.surrogate import Prior, Surrogate
from prefreg.evaluation.statistics import NORMAL

Array = NDArray[np.float64]

LIKELY = 0.9
"""The probability with which a recommended setting shall meet all constraints."""
_CANDIDATES = 1024
_NEAR = 256
_CENTRES = 4
_DRAWS = 64
_STRICTNESS = 4.0
"""How strongly improvement is held back where a setting is likely to miss a constraint."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to make as large (`sign` 1) or as small (−1) as can be."""

    name: str
    sign: int


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure that shall be at least (`sign` 1) or at most (−1) a level."""

    name: str
    sign: int
    level: float

    @property
    def key(self) -> tuple[str, int]:
        """Tell it from other bounds: one figure may have one from either side."""
        return self.name, self.sign


@dataclass(frozen=True, slots=True)
class Measured:
    """One setting with the levels, and their errors, that were measured there."""

    point: tuple[float, ...]
    levels: Mapping[str, tuple[float, float]]


class Search(Protocol):
    """Says where to measure next, from what it is told."""

    def tell(self, measured: Measured, *, fresh: bool = False) -> None:
        """Take note of a setting, on the prompts of the search or on fresh ones."""

    def ask(self, count: int) -> list[Array]:
        """Return settings to measure, in −1…1."""


def normal_cdf(value: Array) -> Array:
    """Return Φ, to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    x = np.abs(value) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    poly = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    upper = 1 - 0.5 * poly * np.exp(-(x**2))
    return np.asarray(np.where(value >= 0, upper, 1 - upper))


def spread_points(count: int, dials: int, seed: int) -> Array:
    """Return points that fill −1…1 evenly, interior ones too: Halton's, shifted at random."""
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53][:dials]
    if len(primes) < dials:
        return np.random.default_rng(seed).uniform(-1, 1, (count, dials))
    columns = []
    for prime in primes:
        index, found, part = np.arange(1, count + 1), np.zeros(count), 1.0
        while index.any():
            part /= prime
            found += part * (index % prime)
            index = index // prime
        columns.append(found)
    shift = np.random.default_rng(seed).random(dials)
    return np.asarray(2 * ((np.stack(columns, axis=1) + shift) % 1) - 1)


@dataclass
class GeometrySearch:
    """Bayesian search whose surrogates start from what the functional geometry expects."""

    goals: Sequence[Goal]
    bounds: Sequence[Bound]
    priors: Mapping[str, Prior]
    dials: int
    first: int
    """Settings of the space-filling start."""
    seed: int = 0
    fresh_times: float = 1.0
    """Fresh prompts, over those of the search."""
    measured: list[Measured] = field(default_factory=list)
    fresh: list[Measured] = field(default_factory=list)
    _models: dict[str, Surrogate] = field(default_factory=dict)
    _fitted: int = -1

    def tell(self, measured: Measured, *, fresh: bool = False) -> None:
        """Take note of a setting; figures that were skipped there are absent."""
        (self.fresh if fresh else self.measured).append(measured)

    @property
    def names(self) -> list[str]:
        """The figures that matter."""
        return list(dict.fromkeys([*(g.name for g in self.goals), *(b.name for b in self.bounds)]))

    def models(self) -> dict[str, Surrogate]:
        """Return a surrogate a figure, fitted to everything that was measured."""
        if self._fitted == len(self.measured):
            return self._models
        for name in self.names:
            rows = [each for each in self.measured if name in each.levels]
            points = np.array([each.point for each in rows]).reshape(len(rows), self.dials)
            known = np.array([each.levels[name] for each in rows]).reshape(len(rows), 2)
            before = self._models.get(name)
            start = before.logs if before is not None else None
            self._models[name] = Surrogate.fit(
                self.priors[name], points, known[:, 0], known[:, 1], start
            )
        self._fitted = len(self.measured)
        return self._models

    def error_of(self, name: str) -> float:
        """Return the standard error that a new measurement of a figure is likely to have."""
        errors = [each.levels[name][1] for each in self.measured if name in each.levels]
        return float(np.median(errors)) if errors else 0.0

    def fresh_error_of(self, name: str) -> float:
        """Return the standard error that a figure of fresh prompts is likely to have."""
        errors = [each.levels[name][1] for each in self.fresh if name in each.levels]
        if errors:
            return float(np.median(errors))
        return self.error_of(name) / float(np.sqrt(self.fresh_times))

    def _spread(self, name: str, deviation: Array) -> Array:
        """Return the standard deviation of what fresh prompts will say of a figure.

        It has three parts: what is not known of the setting, how the prompts searched on differ
        from all, which each fresh reading tells more of, and how the fresh ones do.
        """
        shared = self.error_of(name) ** 2 / (len(self.fresh) + 1)
        return np.sqrt(deviation**2 + shared + self.fresh_error_of(name) ** 2) + 1e-9

    def shift(self, name: str) -> float:
        """Return how far a figure of fresh prompts lies from that of the prompts searched on.

        It is shared by all settings, and expected to be 0 as much as one setting says otherwise.
        """
        rows = [each for each in self.fresh if name in each.levels]
        if not rows:
            return 0.0
        mean, _ = self.models()[name].predict(np.array([each.point for each in rows]))
        away = np.array([each.levels[name][0] for each in rows]) - mean
        return float(away.sum() / (len(rows) + 1))

    def feasibility(self, at: Array, models: Mapping[str, Surrogate] | None = None) -> Array:
        """Return the probability that fresh prompts meet each bound: settings × bounds.

        What is not known of the figure and the chance of prompts both count.
        """
        models = models or self.models()
        found = np.ones((len(at), len(self.bounds)))
        for place, bound in enumerate(self.bounds):
            mean, deviation = models[bound.name].predict(at)
            spread = self._spread(bound.name, deviation)
            away = mean + self.shift(bound.name) - bound.level
            found[:, place] = normal_cdf(bound.sign * away / spread)
        return found

    def confirmation(self, at: Array) -> Array:
        """Return the probability that a reading on fresh prompts says that a setting is likely to
        meet all bounds, which takes some room for the error of that reading itself."""
        models = self.models()
        found = np.ones(len(at))
        room = NORMAL.inv_cdf(LIKELY ** (1 / min(2, max(1, len(self.bounds)))))
        for bound in self.bounds:
            mean, deviation = models[bound.name].predict(at)
            away = bound.sign * (mean + self.shift(bound.name) - bound.level)
            away = away - room * self.fresh_error_of(bound.name)
            found *= normal_cdf(away / self._spread(bound.name, deviation))
        return found

    def ask(self, count: int) -> list[Array]:
        """Propose settings, each as if those before had come out as expected."""
        start = max(0, min(count, self.first - len(self.measured)))
        found = self._fill(start)
        models = dict(self.models())
        for point in found:
            self._expect(models, point)
        random = np.random.default_rng((self.seed, len(self.measured)))
        while len(found) < count:
            weights = random.dirichlet(np.ones(len(self.goals)))
            point = self._best(models, weights, random)
            found.append(point)
            self._expect(models, point)
        return found

    def _expect(self, models: dict[str, Surrogate], point: Array) -> None:
        for name, model in models.items():
            mean, _ = model.predict(point[None])
            models[name] = model.with_point(point, float(mean[0]), self.error_of(name))

    def _fill(self, count: int) -> list[Array]:
        """Return evenly spread settings of the half that geometry thinks the more feasible."""
        if not count:
            return []
        points = spread_points(max(64, 8 * self.first), self.dials, self.seed)
        likely = np.log(self.feasibility(points) + 1e-12).sum(1)
        kept = points[likely >= np.median(likely)]
        chosen: list[Array] = []
        taken = np.array([each.point for each in self.measured]).reshape(-1, self.dials)
        for _ in range(count):
            away = np.full(len(kept), np.inf)
            for point in [*taken, *chosen]:
                away = np.minimum(away, ((kept - point) ** 2).sum(1))
            chosen.append(kept[int(away.argmax())])
        return chosen

    def gains(
        self, at: Array, models: Mapping[str, Surrogate], weights: Array, draws: Array
    ) -> Array:
        """Return draws of how good settings are by the goals: draws × settings.

        Several goals are joined by their weights (augmented Chebyshev, as in ParEGO).
        """
        columns = []
        for place, goal in enumerate(self.goals):
            mean, deviation = models[goal.name].predict(at)
            low, high = self._span(goal)
            drawn = goal.sign * (mean + deviation * draws[:, place, None])
            columns.append((drawn - low) / (high - low))
        if len(columns) == 1:
            return columns[0]
        weighted = [weight * column for weight, column in zip(weights, columns, strict=True)]
        return np.asarray(np.min(weighted, axis=0) + 0.05 * np.sum(weighted, axis=0))

    def _span(self, goal: Goal) -> tuple[float, float]:
        known = [
            goal.sign * each.levels[goal.name][0]
            for each in self.measured
            if goal.name in each.levels
        ]
        if not known or max(known) - min(known) < 1e-9:
            return 0.0, 1.0
        return min(known), max(known)

    def _best(
        self, models: Mapping[str, Surrogate], weights: Array, random: np.random.Generator
    ) -> Array:
        """Return the setting with the largest constrained expected improvement."""
        draws = random.standard_normal((_DRAWS, len(self.goals)))
        points = np.array([each.point for each in self.measured]).reshape(-1, self.dials)
        likely = self.feasibility(points, models).prod(1)
        expected = self.gains(points, models, weights, np.zeros((1, len(self.goals))))[0]
        safe = likely >= LIKELY
        incumbent = float(expected[safe].max()) if safe.any() else None

        def worth(at: Array) -> Array:
            met = self.feasibility(at, models).prod(1)
            if incumbent is None:
                return np.asarray(np.log(met + 1e-300))
            better = np.maximum(self.gains(at, models, weights, draws) - incumbent, 0).mean(0)
            held = _STRICTNESS * np.log(np.minimum(1, met / LIKELY) + 1e-300)
            return np.asarray(np.log(better + 1e-12) + held)

        order = np.lexsort((expected, np.minimum(likely, LIKELY)))[::-1]
        centres = points[order[:_CENTRES]]
        at = random.uniform(-1, 1, (_CANDIDATES, self.dials))
        for width in (0.3, 0.1):
            for centre in centres:
                near = centre + width * random.standard_normal((_NEAR // 2, self.dials))
                at = np.vstack([at, np.clip(near, -1, 1)])
        scores = worth(at)
        best, highest = at[int(scores.argmax())], float(scores.max())
        for width in (0.1, 0.03, 0.01):
            near = best + width * random.standard_normal((_NEAR, self.dials))
            near = np.clip(near, -1, 1)
            scores = worth(near)
            if float(scores.max()) > highest:
                best, highest = near[int(scores.argmax())], float(scores.max())
        return np.asarray(best)

    def winner(self, least: float = 0.5) -> Array:
        """Return the best of those settings that fresh prompts confirm with a probability."""
        models = self.models()
        random = np.random.default_rng((self.seed, 1, len(self.measured)))
        weights = np.full(len(self.goals), 1 / len(self.goals))
        none = np.zeros((1, len(self.goals)))
        points = np.array([each.point for each in self.measured]).reshape(-1, self.dials)

        def worth(at: Array) -> Array:
            met = self.confirmation(at)
            gain = self.gains(at, models, weights, none)[0]
            # Nothing unlikely wins over anything likely; among the unlikely, the likeliest does.
            return np.asarray(np.where(met >= least, gain, met - 1e6))

        at = np.vstack([points, random.uniform(-1, 1, (4 * _CANDIDATES, self.dials))])
        best = at[int(worth(at).argmax())]
        for width in (0.3, 0.1, 0.1, 0.03, 0.03, 0.01):
            near = np.clip(best + width * random.standard_normal((_NEAR, self.dials)), -1, 1)
            at = np.vstack([best[None], near])
            best = at[int(worth(at).argmax())]
        return np.asarray(best)


def outside_hull(point: Array, points: Array, tolerance: float = 0.02) -> bool:
    """Whether a setting is outside the convex hull of others (Gilbert's algorithm)."""
    near = points[int(((points - point) ** 2).sum(1).argmin())]
    for _ in range(2000):
        gap = point - near
        if np.sqrt(gap @ gap) <= tolerance:
            return False
        corner = points[int((points @ gap).argmax())]
        if (corner - near) @ gap <= 1e-12:
            return True
        along = corner - near
        near = near + min(1.0, float(along @ gap / (along @ along))) * along
        if (point - near) @ gap > 0 and (points @ gap).max() < point @ gap - tolerance * np.sqrt(
            gap @ gap
        ):
            return True
    return False
