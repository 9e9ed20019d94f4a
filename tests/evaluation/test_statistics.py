import numpy as np
import pytest

from prefreg.evaluation.statistics import Estimate, grouped_mean, rate

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
    with pytest.raises(ValueError, match="at least one observation"):
        rate(0, 0)


def test_a_mean_of_equal_values_has_no_width() -> None:
    assert grouped_mean([2.0] * 6, [0, 0, 1, 1, 2, 2]) == Estimate(2.0, 2.0, 2.0, 6)


def test_a_mean_of_two_groups_reaches_from_one_to_the_other() -> None:
    # Both drawn alike has probability 1/4 each side, far above 2.5 %.
    assert grouped_mean([0.0, 1.0], ["a", "b"]) == Estimate(0.5, 0.0, 1.0, 2)


def test_groups_of_unequal_size_weigh_by_their_rows() -> None:
    # (1 + 1 + 1 + 5) / 4; drawing only one group gives 1 or 5.
    assert grouped_mean([1, 1, 1, 5], ["a", "a", "a", "b"]) == Estimate(2.0, 1.0, 5.0, 4)


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        effects = np.repeat(generator.normal(size=40), 3)
        values = 5 + effects + generator.normal(scale=0.3, size=120)
        found = grouped_mean(values.tolist(), np.repeat(np.arange(40), 3).tolist(), draws=400)
        covered += found.low <= 5 <= found.high
    assert 0.89 <= covered / 300 <= 0.98


def test_rows_of_one_prompt_do_not_make_the_interval_narrower() -> None:
    values = np.random.default_rng(2).normal(size=30)
    single = grouped_mean(values.tolist(), range(30))
    repeated = grouped_mean(np.repeat(values, 10).tolist(), np.repeat(np.arange(30), 10).tolist())
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low)


def test_a_mean_is_reproducible_and_its_seed_matters() -> None:
    values, groups = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0], range(6)
    assert grouped_mean(values, groups, draws=50) == grouped_mean(values, groups, draws=50)
    assert grouped_mean(values, groups, draws=50) != grouped_mean(values, groups, draws=50, seed=1)


def test_a_mean_of_one_group_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two groups"):
        grouped_mean([1.0, 2.0], ["a", "a"])


def test_values_without_their_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        grouped_mean([1.0, 2.0], ["a"])


def test_an_estimate_is_written_with_its_interval() -> None:
    assert str(Estimate(0.5, 0.234, 0.766, 10)) == "0.50 [0.23, 0.77]"
