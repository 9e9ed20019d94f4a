"""Choose pairs so that the length of an answer says nothing about which one is preferred."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from prefreg.axes import PreferencePair
from prefreg.data.audit import word_count

_EXACT = 10
"""Up to this many words, pairs are matched by their exact difference; above, within 10 %."""


def balance_lengths(pairs: Sequence[PreferencePair], *, seed: int) -> list[PreferencePair]:
    """Keep as many pairs whose chosen answer is longer as pairs whose rejected one is.

    That holds for every size of the difference in words, so that no threshold on it tells which
    answer is chosen; pairs of equal length stay. The order of the pairs stays, too.
    """
    sides: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    kept: list[int] = []
    for position, pair in enumerate(pairs):
        gap = word_count(pair.chosen) - word_count(pair.rejected)
        if gap == 0:
            kept.append(position)
        else:
            sides[_stratum(abs(gap))][gap < 0].append(position)
    draw = random.Random(f"balance/{seed}")
    for stratum in sorted(sides):
        longer, shorter = sides[stratum]
        count = min(len(longer), len(shorter))
        kept += draw.sample(longer, count) + draw.sample(shorter, count)
    return [pairs[position] for position in sorted(kept)]


def _stratum(gap: int) -> int:
    if gap <= _EXACT:
        return gap
    return _EXACT + math.ceil(math.log(gap / _EXACT) / math.log(1.1))
