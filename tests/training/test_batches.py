from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.training.batches import sorted_parts, trl_parts


def test_parts_worked_by_hand() -> None:
    """Nine pairs, four at a time: trl takes 4, 4 and 1, whose one pair weighs a third."""
    lengths = [500, 20, 30, 480, 25, 490, 10, 11, 300]
    assert list(sorted_parts(lengths, 4, tokens=1500)) == [
        ([0, 5, 3], 0.25),
        ([2, 4, 1, 7, 6], pytest.approx(5 / 12)),
        ([8], pytest.approx(1 / 3)),
    ]
    assert trl_parts(9, 4) == [
        (range(4), 1 / 3),
        (range(4, 8), 1 / 3),
        (range(8, 9), 1 / 3),
    ]


@given(st.lists(st.integers(2, 2000), min_size=1, max_size=40), st.integers(1, 9))
def test_every_pair_keeps_the_weight_that_it_has_in_trl(lengths: list[int], size: int) -> None:
    def weights(parts: list[tuple[list[int], float]]) -> dict[int, Fraction]:
        return {
            pair: Fraction(weight / len(part)).limit_denominator(10_000)
            for part, weight in parts
            for pair in part
        }

    ours = list(sorted_parts(lengths, size, tokens=4000))
    plain = [(list(part), weight) for part, weight in trl_parts(len(lengths), size)]
    assert weights(ours) == weights(plain)
    assert sum(len(part) for part, _ in ours) == len(lengths)
    assert sum(weight for _, weight in ours) == pytest.approx(1)
