from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from prefreg.models.padded import OVERHEAD, split_by_length


def cost(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) + OVERHEAD for batch in batches)


def test_batches_worked_by_hand() -> None:
    lengths = [500, 20, 30, 480, 25, 490]
    assert split_by_length(lengths, tokens=1500, at_most=9) == [[0, 5, 3], [2, 4, 1]]
    assert split_by_length(lengths, tokens=1499, at_most=9) == [[0], [5, 3], [2, 4, 1]]
    assert split_by_length([5] * 4, tokens=99, at_most=2) == [[0, 1], [2, 3]]
    assert split_by_length([], tokens=99, at_most=2) == []


def test_a_text_of_more_tokens_stands_alone() -> None:
    assert split_by_length([9, 200, 8], tokens=100, at_most=9) == [[1], [0, 2]]


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=7),
    st.integers(1, 2000),
    st.integers(1, 5),
)
def test_no_other_cut_of_the_sorted_texts_costs_less(
    lengths: list[int], tokens: int, at_most: int
) -> None:
    found = split_by_length(lengths, tokens=tokens, at_most=at_most)
    order = [i for batch in found for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)

    def fits(batch: list[int]) -> bool:
        padded = len(batch) * lengths[batch[0]]
        return len(batch) <= at_most and (padded <= tokens or len(batch) == 1)

    assert all(map(fits, found))
    cuts = (
        [order[start:end] for start, end in zip((0, *inner), (*inner, len(order)), strict=True)]
        for count in range(len(order))
        for inner in combinations(range(1, len(order)), count)
    )
    assert cost(lengths, found) == min(cost(lengths, cut) for cut in cuts if all(map(fits, cut)))
