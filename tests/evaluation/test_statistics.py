import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg import DataError
from prefreg.evaluation.statistics import (
    FEWEST_GROUPS,
    Estimate,
    bootstrap,
    grouped_mean,
    grouped_rate,
    holm,
    jackknife,
    jackknife_error,
    over_seeds,
    rate,
    ratio,
    ratio_change,
    spearman,
    spearman_brown,
    t95,
    widened,
)

# Worked by hand with z² = 3.8415: k = 0 has the upper bound z²/(n + z²), k = n the lower
# bound n/(n + z²); the others after centre (k + z²/2)/(n + z²).
WILSON = [
    # k, n, low, high
    (0, 10, 0.0, 0.2775),
    (10, 10, 0.7225, 1.0),
    (1, 1, 0.2065, 1.0),
    (5, 10, 0.2366, 0.7634),
    (8, 10, 0.4902, 0.9433),
]


@pytest.mark.parametrize(("hits", "count", "low", "high"), WILSON)
def test_a_rate_has_the_interval_of_wilson(hits: int, count: int, low: float, high: float) -> None:
    found = rate(hits, count)
    assert (found.value, found.count) == (hits / count, count)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("count", [1, 3, 7, 400, 12345])
def test_a_rate_lies_within_its_interval_and_the_interval_within_0_and_1(count: int) -> None:
    for hits in {0, 1, count // 2, count}:
        found = rate(hits, count)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_misses_mirror_hits() -> None:
    hits, misses = rate(3, 20), rate(17, 20)
    assert hits.low == pytest.approx(1 - misses.high)
    assert hits.high == pytest.approx(1 - misses.low)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="at least one observation"):
        rate(0, 0)
    with pytest.raises(DataError, match="at least one observation"):
        grouped_rate([], [])


def test_a_rate_of_prompts_of_their_own_is_that_of_wilson() -> None:
    assert grouped_rate([True, False, True], ["a", "b", "c"]) == rate(2, 3)


def test_answers_that_a_group_shares_count_once() -> None:
    # Twenty groups of ten, all alike within: no more is known than from twenty prompts.
    hits = np.repeat([True] * 8 + [False] * 12, 10).tolist()
    groups = np.repeat(np.arange(20), 10).tolist()
    found, alone = grouped_rate(hits, groups), rate(8, 20)
    assert (found.value, found.count) == (0.4, 200)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.1)
    unanimous = grouped_rate([True] * 200, groups)
    assert (unanimous.low, unanimous.high) == (rate(20, 20).low, 1.0)


def test_students_quantiles() -> None:
    # From a table.
    for freedom, expected in ((1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042)):
        assert t95(freedom) == pytest.approx(expected, abs=1e-3)
    assert widened(10_000) == pytest.approx(1.96, abs=1e-3)


def test_a_mean_of_equal_values_has_no_width() -> None:
    groups = [0, 0, 1, 1, 2, 2, 3, 4]
    assert grouped_mean([0.1] * 8, groups) == Estimate(0.1, 0.1, 0.1, 8)


def test_groups_of_unequal_size_weigh_by_their_rows() -> None:
    values, groups = [1, 1, 1, 5, 2, 3, 4], ["a", "a", "a", "b", "c", "d", "e"]
    assert grouped_mean(values, groups).value == pytest.approx(17 / 7)


def test_the_interval_of_a_symmetric_mean_is_that_of_student() -> None:
    values = np.concatenate([np.arange(1, 31), -np.arange(1, 31)]).astype(float)
    found = grouped_mean(values, range(60))
    half = 2.001 * values.std(ddof=1) / 60**0.5
    assert (found.low, found.high) == pytest.approx((-half, half), rel=0.04)


def test_a_skewed_mean_reaches_further_to_its_long_side() -> None:
    found = grouped_mean(np.exp(np.linspace(-2, 2.5, 40)), range(40))
    assert found.high - found.value > 1.15 * (found.value - found.low)


def test_a_ratio_and_the_change_of_a_ratio() -> None:
    generator = np.random.default_rng(3)
    tokens = generator.integers(4, 20, size=60).astype(float)
    table = np.stack([3 * tokens, tokens, 2 * tokens, tokens], axis=1)
    found = bootstrap(table[:, :2], range(60), ratio).estimate
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))
    change = bootstrap(table, range(60), ratio_change)
    assert change.estimate.value == pytest.approx(1.0)
    assert change.p == pytest.approx(2 / 10_001)


def test_a_ratio_with_nothing_to_divide_by_is_refused() -> None:
    table = np.zeros((10, 2))
    table[0] = 1
    with pytest.raises(DataError, match="too little to divide by"):
        bootstrap(table, range(10), ratio)


Draw = Callable[[np.random.Generator], Estimate]


def _means(generator: np.random.Generator) -> Estimate:
    return grouped_mean(generator.normal(size=30), range(30), draws=2000)


def _rows_of_groups(generator: np.random.Generator) -> Estimate:
    effects = np.repeat(generator.normal(size=40), 3)
    values = effects + generator.normal(scale=0.3, size=120)
    return grouped_mean(values, np.repeat(np.arange(40), 3).tolist(), draws=2000)


def _changes_of_rates(generator: np.random.Generator) -> Estimate:
    # Both settings answer when the prompt is easy: 60 % and 40 % of the time.
    ease = generator.random(60)
    return grouped_mean((ease < 0.6) * 1.0 - (ease < 0.4) * 1.0 - 0.2, range(60), draws=2000)


def _grouped_rates(generator: np.random.Generator) -> Estimate:
    easy = np.repeat(generator.random(24) < 0.5, 4)
    hits = generator.random(96) < np.where(easy, 0.9, 0.3)
    found = grouped_rate(hits.tolist(), np.repeat(np.arange(24), 4).tolist())
    return Estimate(found.value - 0.6, found.low - 0.6, found.high - 0.6, 96)


def _seeds(generator: np.random.Generator) -> Estimate:
    prompts = generator.normal(size=40)
    by_seed = [0.5 * generator.normal() + prompts + generator.normal(size=40) for _ in range(5)]
    return over_seeds(by_seed, range(40), draws=1000)


@pytest.mark.parametrize(
    "draw", [_means, _rows_of_groups, _changes_of_rates, _grouped_rates, _seeds]
)
def test_95_percent_intervals_cover_the_truth_in_93_to_97_percent_of_1000_draws(draw: Draw) -> None:
    generator = np.random.default_rng(5)
    found = [draw(generator) for _ in range(1000)]
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.97


def test_probabilities_of_no_effect_are_uniform() -> None:
    generator = np.random.default_rng(6)
    found = []
    for _ in range(500):
        table = np.stack([generator.normal(size=40), np.ones(40)], axis=1)
        found.append(bootstrap(table, range(40), ratio, draws=1000).p)
    assert 0.03 <= np.mean(np.array(found) <= 0.05) <= 0.08
    assert 0.45 <= np.mean(np.array(found) <= 0.5) <= 0.55


def test_an_interval_over_seeds_is_wider_than_one_over_prompts() -> None:
    generator = np.random.default_rng(7)
    by_seed = [generator.normal(size=50) * 0.1 + effect for effect in (0.0, 1.0, 2.0)]
    seeds, prompts = over_seeds(by_seed, range(50)), grouped_mean(by_seed[1], range(50))
    assert seeds.value == pytest.approx(np.mean(by_seed))
    assert seeds.count == 3
    assert seeds.high - seeds.low > 10 * (prompts.high - prompts.low)


def test_rows_of_one_prompt_do_not_make_the_interval_narrower() -> None:
    values = np.random.default_rng(2).normal(size=30)
    single = grouped_mean(values, range(30))
    repeated = grouped_mean(np.repeat(values, 10), np.repeat(np.arange(30), 10).tolist())
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low)


def test_a_mean_is_reproducible_and_its_seed_matters() -> None:
    values, groups = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0], range(6)
    assert grouped_mean(values, groups, draws=50) == grouped_mean(values, groups, draws=50)
    assert grouped_mean(values, groups, draws=50) != grouped_mean(values, groups, draws=50, seed=1)


def test_many_groups_are_drawn_in_parts() -> None:
    values = np.random.default_rng(8).normal(size=3000)
    found = grouped_mean(values, range(3000), draws=3000)
    half = 1.96 * values.std(ddof=1) / 3000**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_fewer_groups_than_a_statistic_needs_are_refused() -> None:
    with pytest.raises(DataError, match=f"at least {FEWEST_GROUPS} groups, this figure has 4: ask"):
        grouped_mean(range(8), [0, 0, 1, 1, 2, 2, 3, 3])
    with pytest.raises(DataError, match="at least 2 of them, there are 1"):
        over_seeds([[1.0, 2.0]], range(2))
    with pytest.raises(DataError, match="at least 2 groups"):
        over_seeds([[1.0], [2.0]], [0])


def test_values_without_their_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        grouped_mean([1.0, 2.0], ["a"])


def test_probabilities_of_a_family_are_adjusted_after_holm() -> None:
    # .01 × 4, .02 × 3, .03 × 2; and .04 × 1, which may not be smaller than the one before.
    found = holm({"a": 0.04, "b": 0.01, "c": 0.02, "d": 0.03})
    assert found == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_a_rising_dial_has_the_rank_correlation_1() -> None:
    assert spearman([0.1, 0.2, 0.7]) == pytest.approx(1.0)
    assert spearman([3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert spearman([1.0, 1.0, 1.0]) == 0.0


def test_an_estimate_is_written_with_its_interval() -> None:
    assert str(Estimate(0.5, 0.234, 0.766, 10)) == "0.50 [0.23, 0.77]"


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
    found = jackknife(count, statistic)
    assert found.kind == "jackknife"
    assert found.value == statistic(range(count))
    assert found.high - found.value == pytest.approx(t95(count - 1) * error, abs=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value, abs=1e-6)


def test_below_five_seeds_there_is_a_range_and_no_interval() -> None:
    values = [1.0, 4.0, 10.0, 1.0]
    found = jackknife(4, lambda chosen: mean(values[each] for each in chosen))
    assert (found.value, found.low, found.high, found.kind) == (4.0, 1.0, 7.0, "range")
    alone = jackknife(4, lambda chosen: mean(values[each] for each in chosen), smallest=1)
    assert (alone.low, alone.high) == (1.0, 10.0)


def test_a_figure_of_two_needs_two() -> None:
    with pytest.raises(ValueError, match="needs 2 seeds, not 1"):
        jackknife(1, lambda chosen: 0.0)


def test_spearman_brown_worked_by_hand() -> None:
    assert spearman_brown(0.5, 2) == pytest.approx(2 / 3)
    assert spearman_brown(0.2, 4) == pytest.approx(0.5)
    assert spearman_brown(1.0, 7) == 1.0
    assert spearman_brown(0.0, 7) == 0.0
    assert spearman_brown(-0.5, 3) == -0.5


@given(st.floats(0.01, 0.99), st.floats(1, 20), st.floats(1, 20))
def test_lengthening_twice_is_lengthening_by_the_product(r: float, k: float, m: float) -> None:
    assert spearman_brown(spearman_brown(r, k), m) == pytest.approx(spearman_brown(r, k * m))
