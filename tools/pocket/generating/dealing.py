"""How a world draws from the pools, and deals phrasings out to the splits."""

import random
import re
from collections.abc import Iterable, Set

from prefreg.pocket.world import Frames, by_split

_PLACEHOLDER = re.compile(r"\{\w\}")


def some(pool: tuple[str, ...], count: int, draw: random.Random) -> tuple[str, ...]:
    """Draw that many of a pool, in any order."""
    return tuple(draw.sample(pool, count))


def words(frames: Iterable[str]) -> Set[str]:
    """Return the words of some phrasings, without what will be filled in."""
    return set(re.findall(r"\w+", _PLACEHOLDER.sub("", " ".join(frames))))


def deal(
    pool: tuple[str, ...],
    counts: tuple[int, int, int],
    draw: random.Random,
    known: Set[str] = frozenset(),
) -> Frames:
    """Deal phrasings out to train (at least that many), dev and test.

    No phrasing of dev or test has a word that is neither known nor in one of train. The pool must
    have that many whose words the rest cover, or no deal is ever found.
    """
    train, dev, test = counts
    while True:
        order = draw.sample(pool, len(pool))
        held, kept = order[: dev + test], order[dev + test :]
        if words(held) <= words(kept) | known:
            break
    for frame in tuple(kept):
        rest = [each for each in kept if each != frame]
        if len(kept) > train and words(held) <= words(rest) | known:
            kept = rest
    return by_split(tuple(kept), tuple(held[:dev]), tuple(held[dev:]))
