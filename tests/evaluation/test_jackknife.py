import math
from collections.abc import Sequence
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.evaluation.consistency import spearman_brown
from prefreg.evaluation.statistics import jackknife_error, over_seeds, t95

numbers = st.lists(st.floats(-100, 100), min_size=5, max_size=12)


@given(numbers)
def test_for_a_mean_the_jackknife_is_the_standard_error(values: list[float]) -> None:
    found = jackknife_error(len(values), lambda chosen: mean(values[each] for each in chosen))
    expected = stdev(values) / math.sqrt(len(values))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(numbers)
def test_the_jackknife_is_what_leaving_out_by_hand_gives(values: list[float]) -> None:
    def statistic(chosen: Sequence[int]) -> float:
        return sum(values[each] ** 3 for each in chosen) / len(chosen) ** 2

    count = len(values)
    left = []
    for out in range(count):
        kept = values[:out] + values[out + 1 :]
        left.append(sum(value**3 for value in kept) / len(kept) ** 2)
    error = math.sqrt((count - 1) / count * sum((each - mean(left)) ** 2 for each in left))
    found = over_seeds(count, statistic)
    assert found.kind == "jackknife"
    assert found.value == statistic(range(count))
    assert found.high - found.value == pytest.approx(t95(count - 1) * error, abs=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value, abs=1e-6)


def test_below_five_seeds_there_is_a_range_and_no_interval() -> None:
    values = [1.0, 4.0, 10.0, 1.0]
    found = over_seeds(4, lambda chosen: mean(values[each] for each in chosen))
    assert (found.value, found.low, found.high, found.kind) == (4.0, 1.0, 7.0, "range")
    alone = over_seeds(4, lambda chosen: mean(values[each] for each in chosen), smallest=1)
    assert (alone.low, alone.high) == (1.0, 10.0)


def test_a_figure_of_two_needs_two() -> None:
    with pytest.raises(ValueError, match="needs 2 seeds, not 1"):
        over_seeds(1, lambda chosen: 0.0)


def test_spearman_brown_worked_by_hand() -> None:
    assert spearman_brown(0.5, 2) == pytest.approx(2 / 3)
    assert spearman_brown(0.2, 4) == pytest.approx(0.5)
    assert spearman_brown(1.0, 7) == 1.0
    assert spearman_brown(0.0, 7) == 0.0
    assert spearman_brown(-0.5, 3) == -0.5


@given(st.floats(0.01, 0.99), st.floats(1, 20), st.floats(1, 20))
def test_lengthening_twice_is_lengthening_by_the_product(r: float, k: float, m: float) -> None:
    assert spearman_brown(spearman_brown(r, k), m) == pytest.approx(spearman_brown(r, k * m))
