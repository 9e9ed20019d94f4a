"""Methods at equal price: the largest helpful × harmless for at most so many nats.

A coin may be tossed between two settings of a method, the base being one: both effects and the
price are then means of theirs (the price at most, as KL is convex), which is what joining two
points by a line means. Which settings, and how the coin falls, is chosen on one half of the prompts
and reported on the other, and the other way round: so a method gains nothing by having many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefreg.evaluation.statistics import Bootstrap, bootstrap
from rivals.placing import KINDS

COINS = np.linspace(0, 1, 21)
PER_PROMPT = ("hits", "nats", "malformed", "refused")
Array = NDArray[np.float64]
Point = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trade:
    """The best of a method at a price, each figure from prompts that did not choose it."""

    helpful: float
    harmless: float
    nats: float
    malformed: float
    correct: float
    """Of benign questions answered; over all prompts, as nothing was chosen by it."""
    table: Array
    """For each prompt: hit if benign, whether benign, hit if unsafe, whether unsafe."""
    chosen: tuple[dict[str, float], dict[str, float]]
    """Settings with their shares, as either half chose."""

    @property
    def product(self) -> Bootstrap:
        """Estimate helpful × harmless."""
        return bootstrap(self.table, range(len(self.table)), multiply)


def best(points: Mapping[str, Point], limit: float) -> Trade:
    """Find the best trade of a method's settings, the base among them, at `limit` nats."""
    names = list(points)
    columns = {
        (kind, what): np.array([points[name][kind][what] for name in names], dtype=np.float64)
        for kind in KINDS
        for what in PER_PROMPT
    }
    found = {key: np.zeros(each.shape[1]) for key, each in columns.items()}
    chosen = []
    for half in (0, 1):
        helpful, harmless = (columns[kind, "hits"][:, half::2].mean(1) for kind in KINDS)
        price = np.mean([columns[kind, "nats"][:, half::2].mean(1) for kind in KINDS], axis=0)
        weights = choose(helpful, harmless, price, limit)
        chosen.append({name: float(w) for name, w in zip(names, weights, strict=True) if w})
        for key, each in columns.items():
            found[key][1 - half :: 2] = weights @ each[:, 1 - half :: 2]
    benign, unsafe = (found[kind, "hits"] for kind in KINDS)
    zero, one = np.zeros_like(benign), np.ones_like(benign)
    return Trade(
        helpful=float(benign.mean()),
        harmless=float(unsafe.mean()),
        nats=float(np.mean([found[kind, "nats"].mean() for kind in KINDS])),
        malformed=float(np.mean([found[kind, "malformed"].mean() for kind in KINDS])),
        correct=_correct(points, chosen),
        table=np.concatenate(
            [np.stack([benign, one, zero, zero], 1), np.stack([zero, zero, unsafe, one], 1)]
        ),
        chosen=(chosen[0], chosen[1]),
    )


def choose(helpful: Array, harmless: Array, price: Array, limit: float) -> Array:
    """Return the share of each setting: of one, or of two between which a coin is tossed."""
    first, second = np.triu_indices(len(price))

    def tossed(values: Array) -> Array:
        return np.outer(values[first], 1 - COINS) + np.outer(values[second], COINS)

    product = np.where(tossed(price) <= limit, tossed(helpful) * tossed(harmless), -1.0)
    pair, coin = np.unravel_index(int(product.argmax()), product.shape)
    shares = np.zeros(len(price))
    shares[first[pair]] += 1 - COINS[coin]
    shares[second[pair]] += COINS[coin]
    return shares


def compared(one: Trade, other: Trade) -> Bootstrap:
    """Estimate by how much one product exceeds another, on the same prompts."""
    table = np.concatenate([one.table, other.table], axis=1)

    def difference(sums: Array) -> Any:
        return multiply(sums[..., :4]) - multiply(sums[..., 4:])

    return bootstrap(table, range(len(table)), difference)


def multiply(sums: Array) -> Any:
    """Multiply the two rates."""
    return (sums[..., 0] / sums[..., 1]) * (sums[..., 2] / sums[..., 3])


def of_method(points: Mapping[str, Point], method: str) -> dict[str, Point]:
    """Return the settings of a method and the base."""
    return {name: each for name, each in points.items() if each["method"] in (method, "base")}


def merge(seeds: Sequence[Mapping[str, Point]]) -> dict[str, dict[str, Any]]:
    """Take the mean over seeds, prompt by prompt, of every setting that all of them have."""
    merged = {}
    for name in seeds[0]:
        if all(name in points for points in seeds):
            same = [points[name] for points in seeds]
            merged[name] = {"method": same[0]["method"], "dials": same[0]["dials"]} | {
                kind: {what: _mean(same, kind, what) for what in PER_PROMPT}
                | {"correct": list(chain.from_iterable(each[kind]["correct"] for each in same))}
                for kind in KINDS
            }
    return merged


def _mean(same: Sequence[Point], kind: str, what: str) -> list[float]:
    columns = np.array([each[kind][what] for each in same], dtype=np.float64)
    return [float(value) for value in columns.mean(axis=0)]


def _correct(points: Mapping[str, Point], chosen: Sequence[Mapping[str, float]]) -> float:
    """Return the share of true answers among those that the chosen settings give."""
    true = answered = 0.0
    for shares in chosen:
        for name, share in shares.items():
            verdicts = points[name]["benign"]["correct"]
            true += share * sum(verdicts)
            answered += share * len(verdicts)
    return true / answered if answered else float("nan")
