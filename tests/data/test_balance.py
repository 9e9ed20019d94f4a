"""That the length of an answer predicts nothing once pairs are balanced."""

import math
import random
from collections import Counter

import numpy
import pytest

from prefreg import DataError, PreferencePair
from prefreg.axes.axis import word_count
from prefreg.data.pairs import balance_lengths, build_pairs


def pair(number: int, chosen: int, rejected: int) -> PreferencePair:
    return PreferencePair(
        f"{number}?", f"{number} " + "a " * chosen, f"{number} " + "b " * rejected
    )


def biased(count: int, *, seed: int = 0) -> list[PreferencePair]:
    """Make pairs whose longer answer is preferred the more often, the longer it is."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        first, second = (math.ceil(draw.lognormvariate(3, 0.8)) for _ in range(2))
        longer, shorter = max(first, second), min(first, second)
        likely = 0.5 + 0.35 * math.tanh((longer - shorter) / 15)
        pairs.append(
            pair(number, longer, shorter)
            if draw.random() < likely
            else pair(number, shorter, longer)
        )
    return pairs


def gaps(pairs: list[PreferencePair]) -> numpy.ndarray:
    return numpy.array([word_count(each.chosen) - word_count(each.rejected) for each in pairs])


def best_threshold(found: numpy.ndarray) -> float:
    """Return the best share of right answers of "the longer one is chosen iff by at least t words".

    Below the threshold the opposite is guessed, so that every cut of the differences is tried.
    """
    known = found[found != 0]
    right = [
        numpy.mean(numpy.where(abs(known) >= threshold, known > 0, known < 0))
        for threshold in range(1, abs(known).max() + 2)
    ]
    return float(max(max(right), 1 - min(right)))


def logistic_slope(found: numpy.ndarray) -> tuple[float, float]:
    """Fit P(first is chosen) = σ(slope·difference) to pairs in random order, with its error."""
    signs = numpy.random.default_rng(0).choice([-1, 1], len(found))
    x, y = found * signs / 10, (signs + 1) / 2
    slope = 0.0
    for _ in range(50):
        p = 1 / (1 + numpy.exp(-slope * x))
        slope += float(numpy.sum((y - p) * x) / numpy.sum(p * (1 - p) * x * x))
    p = 1 / (1 + numpy.exp(-slope * x))
    return slope, float(1 / numpy.sqrt(numpy.sum(p * (1 - p) * x * x)))


def test_what_length_predicted_it_predicts_no_more() -> None:
    pairs = biased(4000)
    before, after = gaps(pairs), gaps(balance_lengths(pairs, seed=0))
    assert best_threshold(before) > 0.7
    slope, error = logistic_slope(before)
    assert slope > 10 * error
    assert best_threshold(after) < 0.505
    slope, error = logistic_slope(after)
    assert abs(slope) < error
    assert len(after) > 0.4 * len(before)


def test_each_small_difference_stands_on_both_sides_equally_often() -> None:
    counts = Counter(gaps(balance_lengths(biased(3000), seed=0)).tolist())
    assert sum(count for gap, count in counts.items() if gap > 0) == sum(
        count for gap, count in counts.items() if gap < 0
    )
    for gap in range(1, 11):
        assert counts[gap] == counts[-gap] > 0


def test_pairs_of_equal_length_stay_and_so_does_the_order() -> None:
    pairs = [pair(0, 5, 5), pair(1, 7, 3), pair(2, 3, 7), pair(3, 9, 1)]
    assert balance_lengths(pairs, seed=0) == pairs[:3]


def test_the_choice_depends_on_the_seed_alone() -> None:
    pairs = biased(300)
    assert balance_lengths(pairs, seed=1) == balance_lengths(pairs, seed=1)
    assert balance_lengths(pairs, seed=1) != balance_lengths(pairs, seed=2)


def test_the_audit_counts_what_was_left_out() -> None:
    found = build_pairs(biased(2000), axis_name="kind", seed=0, length_balanced=True)
    audit = found.audit
    assert audit.rows == 2000 == audit.pairs + audit.unbalanced
    assert audit.unbalanced > 100
    assert audit.pairs == len(found.train) + len(found.heldout)
    assert audit.chosen_longer == pytest.approx((1 - audit.equal_length) / 2, abs=1e-9)
    # On each side of the split, not only on both together.
    for side in (found.train, found.heldout):
        assert numpy.sum(gaps(list(side)) > 0) == numpy.sum(gaps(list(side)) < 0)


def test_the_order_of_the_rows_changes_nothing() -> None:
    pairs = biased(500)
    again = random.Random(5).sample(pairs, len(pairs))
    once = build_pairs(pairs, axis_name="kind", seed=3, length_balanced=True)
    assert build_pairs(again, axis_name="kind", seed=3, length_balanced=True) == once


def test_without_the_option_nothing_is_left_out() -> None:
    assert build_pairs(biased(200), axis_name="kind", seed=0).audit.unbalanced == 0


def test_data_that_are_all_about_length_are_refused() -> None:
    pairs = [pair(number, 5 + number % 7, 3) for number in range(100)]
    with pytest.raises(DataError, match=r"of \d+ training pairs only 0 are left once length"):
        build_pairs(pairs, axis_name="verbosity", seed=0, length_balanced=True)
