from itertools import count, islice, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.axes.row_sources import interleave


def test_shares_hold_from_the_first_item_on() -> None:
    mixed = interleave([repeat("a"), repeat("b")], [3, 1])
    assert "".join(islice(mixed, 8)) in {"aabaaaba", "aaabaaab", "abaaabaa"}


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(1, 200))
def test_every_share_is_kept_to_within_one_item(weights: list[float], size: int) -> None:
    streams = [repeat(number) for number in range(len(weights))]
    mixed = list(islice(interleave(streams, weights), size))
    for number, weight in enumerate(weights):
        # Two streams differ by less than one; more can lag by one for each other stream.
        wanted = weight / sum(weights) * size
        assert abs(mixed.count(number) - wanted) < max(1.0, len(weights) - 1)


def test_with_weights_all_ends_where_the_first_stream_does() -> None:
    mixed = list(interleave([iter("aaa"), repeat("b")], [1, 1]))
    assert mixed.count("a") == 3
    assert mixed.count("b") in (3, 4)


def test_without_weights_every_stream_is_read_to_its_end() -> None:
    mixed = "".join(interleave([iter("aa"), iter("bbbbb"), iter("c")], None))
    assert sorted(mixed) == sorted("aabbbbbc")
    assert set(mixed[:3]) == {"a", "b", "c"}


def test_a_single_stream_keeps_its_order() -> None:
    assert list(islice(interleave([count()], [0.2]), 4)) == [0, 1, 2, 3]
    assert list(interleave([iter("abc")], None)) == ["a", "b", "c"]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0]])
def test_the_order_is_the_same_each_time(weights: list[float] | None) -> None:
    def once() -> list[str]:
        return list(interleave([iter("abcdef"), iter("xyz")], weights))

    assert once() == once()
