"""An optimiser batch in parts of similar length, with the gradient that TRL's own parts give."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

_OVERHEAD = 64
"""Tokens that take about as long as what every further part costs."""


def trl_parts(count: int, size: int) -> list[tuple[range, float]]:
    """Cut a batch of `count` pairs as TRL does; return parts with their share of the loss.

    TRL takes `size` pairs at a time as they come and averages the means: where the last part is
    smaller, its pairs weigh more.
    """
    starts = range(0, count, size)
    return [(range(start, min(start + size, count)), 1 / len(starts)) for start in starts]


def sorted_parts(lengths: Sequence[int], size: int) -> Iterator[tuple[list[int], float]]:
    """Cut a batch into parts of similar length, at most `size` pairs each, longest first.

    Every pair keeps the weight that it has in TRL's parts, so the sum of gradients is the same.
    Pairs of different weight share no part.
    """
    count = len(lengths)
    parts = len(trl_parts(count, size))
    smaller = count % size
    for members, together in (
        (range(count - smaller), size),
        (range(count - smaller, count), smaller),
    ):
        for part in _cheapest_split([lengths[i] for i in members], size):
            yield [members[i] for i in part], len(part) / (together * parts)


def _cheapest_split(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Cut pairs, sorted by length, where padding and the number of parts cost least."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    costs: list[float] = [0.0]
    starts = [0]
    for end in range(1, len(order) + 1):
        cost, start = min(
            (costs[start] + lengths[order[start]] * (end - start) + _OVERHEAD, -start)
            for start in range(max(0, end - size), end)
        )
        costs.append(cost)
        starts.append(-start)
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(starts[cuts[-1]])
    return [order[start:end] for end, start in reversed(list(pairwise(cuts)))]
