"""An optimiser batch in parts of similar length, with the gradient that TRL's own parts give."""

from collections.abc import Iterator, Sequence

from prefreg.scoring.splitting import split_by_length


def trl_parts(count: int, size: int) -> list[tuple[range, float]]:
    """Cut a batch of `count` pairs as TRL does; return parts with their share of the loss.

    TRL takes `size` pairs at a time as they come and averages the means: where the last part is
    smaller, its pairs weigh more.
    """
    starts = range(0, count, size)
    return [(range(start, min(start + size, count)), 1 / len(starts)) for start in starts]


def sorted_parts(
    lengths: Sequence[int], size: int, *, tokens: int
) -> Iterator[tuple[list[int], float]]:
    """Cut a batch into parts of similar length, longest first, of at most `tokens` each.

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
        chosen = [lengths[i] for i in members]
        for part in split_by_length(chosen, tokens=tokens, at_most=count):
            yield [members[i] for i in part], len(part) / (together * parts)
