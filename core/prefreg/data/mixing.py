"""Read several streams as one, each with its share."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def interleave(
    streams: Sequence[Iterator[Item]], weights: Sequence[float] | None
) -> Iterator[Item]:
    """Yield the items of all streams, in an order that depends on nothing but the weights.

    With weights, each stream has its share at every point, to within one item, and all ends where
    the first stream does. Without, the streams take turns until each has ended.
    """
    alive = list(range(len(streams)))
    taken = [0] * len(streams)
    shares = weights or [1.0] * len(streams)
    while alive:
        total = sum(shares[index] for index in alive)
        step = sum(taken[index] for index in alive) + 1
        turn = max(alive, key=lambda index: shares[index] / total * step - taken[index])
        try:
            item = next(streams[turn])
        except StopIteration:
            if weights is not None:
                return
            alive.remove(turn)
        else:
            taken[turn] += 1
            yield item
