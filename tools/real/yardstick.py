"""What a model without understanding reaches: word counts of the same tokens."""

import math
from collections import Counter
from collections.abc import Sequence

DISCOUNT = 0.75


class Ngrams:
    """An interpolated trigram model with absolute discounting, down to smoothed single tokens."""

    def __init__(self, documents: Sequence[Sequence[int]], size: int) -> None:
        """Count the tokens of these documents."""
        self.size = size
        self.counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(3)]
        for ids in documents:
            for order, counter in enumerate(self.counts, start=1):
                counter.update(zip(*(ids[shift:] for shift in range(order)), strict=False))
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.followers: Counter[tuple[int, ...]] = Counter()
        for counter in self.counts:
            for gram, count in counter.items():
                self.seen[gram[:-1]] += count
                self.followers[gram[:-1]] += 1

    def probability(self, gram: tuple[int, ...]) -> float:
        """Return the probability of the last token after those before it."""
        if len(gram) == 1:
            return (self.counts[0][gram] + 1) / (self.seen[()] + self.size)
        lower = self.probability(gram[1:])
        total = self.seen[gram[:-1]]
        if not total:
            return lower
        kept = max(self.counts[len(gram) - 1][gram] - DISCOUNT, 0) / total
        return kept + DISCOUNT * self.followers[gram[:-1]] / total * lower

    def loss(self, documents: Sequence[Sequence[int]], order: int) -> float:
        """Return the mean nats of every token but the first of each document."""
        total, tokens = 0.0, 0
        for ids in documents:
            for place in range(1, len(ids)):
                gram = tuple(ids[max(0, place - order + 1) : place + 1])
                total -= math.log(self.probability(gram))
                tokens += 1
        return total / tokens
