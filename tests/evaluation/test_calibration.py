from collections.abc import Callable
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.evaluation.calibration import Unit, effect_statistic, find_scale, unit_of
from prefreg.evaluation.statistics import Estimate


def exact(effect: Callable[[float], float]) -> Callable[[float], Estimate]:
    return lambda eta: Estimate(effect(eta), effect(eta), effect(eta), 1)


@pytest.mark.parametrize(
    ("scores", "unit"),
    [
        ([0, 1, 1], Unit.LOG_ODDS),
        ([12, 3, 40], Unit.LOG),
        ([0, 2, 1], Unit.LOG),
        ([-1, 0, 1], Unit.DEVIATIONS),
        ([0.2, 0.7], Unit.DEVIATIONS),
    ],
)
def test_the_unit_follows_what_a_metric_returns(scores: list[float], unit: Unit) -> None:
    assert unit_of(np.array(scores, dtype=float)) is unit


def test_effects_worked_by_hand() -> None:
    sums = np.array([3.0, 4.0, 1.0, 4.0])
    odds = log(3.5 / 1.5) - log(1.5 / 3.5)
    assert float(effect_statistic(Unit.LOG_ODDS, 0.0)(sums)) == pytest.approx(odds)
    assert float(effect_statistic(Unit.LOG, 0.0)(sums)) == pytest.approx(log(3.5 / 1.5))
    assert float(effect_statistic(Unit.DEVIATIONS, 0.25)(sums)) == pytest.approx(2.0)


def test_rates_of_all_and_nothing_have_odds() -> None:
    sums = np.array([[4.0, 4.0, 0.0, 4.0]])
    assert effect_statistic(Unit.LOG_ODDS, 0.0)(sums) == pytest.approx([2 * log(9)])


@given(slope=st.floats(0.2, 20), target=st.floats(0.5, 2))
def test_the_scale_of_a_straight_dial_is_found(slope: float, target: float) -> None:
    found = find_scale(exact(lambda eta: slope * eta), target=target, sign=1, furthest=16)
    assert found.eta is not None
    assert found.effect.value == pytest.approx(target, rel=0.05)
    assert found.eta == found.at == pytest.approx(target / slope, rel=0.05)


@given(factor=st.floats(0.05, 50))
def test_the_scale_of_a_divergence_is_found(factor: float) -> None:
    found = find_scale(
        exact(lambda eta: factor * eta**2), target=0.5, sign=-1, power=2, furthest=16
    )
    assert found.eta == pytest.approx(-((0.5 / factor) ** 0.5), rel=0.05)
    assert found.steps <= 8


def test_both_sides_have_scales_of_their_own() -> None:
    dial = exact(lambda eta: 2 * eta if eta > 0 else eta / 2)
    assert find_scale(dial, target=1, sign=1).eta == pytest.approx(0.5, rel=0.05)
    assert find_scale(dial, target=-1, sign=-1).eta == pytest.approx(-2, rel=0.05)


def test_an_effect_that_saturates_has_no_scale_and_says_how_far_it_came() -> None:
    found = find_scale(exact(lambda eta: min(eta, 0.6)), target=1, sign=1, furthest=4)
    assert found.eta is None
    assert found.effect.value == 0.6
    assert found.steps == 3  # at 1, 2 and 4


def test_a_dial_that_turns_the_wrong_way_has_no_scale() -> None:
    assert find_scale(exact(lambda eta: -eta), target=1, sign=1).eta is None


def test_a_step_is_narrowed_to() -> None:
    found = find_scale(exact(lambda eta: 3.0 * (eta > 0.3)), target=1, sign=1)
    assert found.eta is not None
    assert found.steps <= 6
