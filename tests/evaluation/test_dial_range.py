from collections.abc import Callable

import pytest

from prefreg.evaluation.dial_range import Reading, objection, walk
from prefreg.evaluation.statistics import Estimate


def reading(
    eta: float,
    effect: float,
    *,
    noise: float = 0.0,
    malformed: float = 0.0,
    base_malformed: float = 0.0,
    lost: float | None = 0.0,
) -> Reading:
    """Make a reading whose interval has this half width; `lost` is of correct answers."""
    change = None if lost is None else Estimate(-lost, -lost, -lost, 10)
    return Reading(
        eta,
        Estimate(effect, effect - noise, effect + noise, 10),
        malformed,
        base_malformed,
        change,
        None if lost is None else 1.0,
    )


def walked(effect: Callable[[float], Reading], limit: float, step: float = 1.0):
    asked: list[float] = []

    def measure(eta: float) -> Reading:
        asked.append(eta)
        return effect(eta)

    return walk(measure, limit=limit, step=step), asked


def test_a_dial_that_does_no_harm_is_good_as_far_as_was_looked() -> None:
    side, asked = walked(lambda eta: reading(eta, eta), 3.0)
    assert (side.eta, side.reason) == (3.0, None)
    assert asked == [1.0, 2.0, 3.0]


def test_the_end_is_sought_between_the_last_two_points() -> None:
    # Malformed from 1.6 on: 2 is bad, 1.5 is good, 1.75 is bad.
    side, asked = walked(lambda eta: reading(eta, eta, malformed=0.05 * (eta > 1.6)), 4.0)
    assert asked == [1.0, 2.0, 1.5, 1.75]
    assert side.eta == 1.5
    assert side.reason == "5.0% of the answers are malformed at 1.75"


def test_a_negative_side_has_effects_of_the_other_sign() -> None:
    side, _ = walked(lambda eta: reading(eta, eta), -2.0)
    assert side.eta == -2.0
    wrong, asked = walked(lambda eta: reading(eta, -eta), -2.0)
    assert wrong.eta == 0.0
    assert wrong.reason == "the effect turns back at -0.25"
    assert asked == [-1.0, -0.5, -0.25]


def test_a_range_is_connected() -> None:
    # It is bad only around 2: what lies beyond is not reached.
    side, asked = walked(lambda eta: reading(eta, eta, lost=0.2 * (1.9 < eta < 2.1)), 4.0)
    assert side.eta == 1.75
    assert max(asked) == 2.0


def test_an_effect_that_noise_lets_fall_does_not_turn_back() -> None:
    best = reading(1.0, 0.5)
    assert objection(reading(2.0, 0.45, noise=0.1), best) is None
    assert objection(reading(2.0, 0.35, noise=0.1), best) == "the effect turns back at 2"
    assert objection(reading(2.0, 0.5), best) is None  # a rate that is as high as it can be


def test_an_effect_that_never_leaves_zero_downwards_is_refused_only_beyond_noise() -> None:
    assert objection(reading(1.0, -0.1, noise=0.2), None) is None
    assert objection(reading(1.0, -0.3, noise=0.2), None) == "the effect turns back at 1"


@pytest.mark.parametrize(("malformed", "bad"), [(0.02, False), (0.021, True)])
def test_at_most_two_in_a_hundred_answers_are_malformed(malformed: float, bad: bool) -> None:
    assert (objection(reading(1, 1, malformed=malformed), None) is not None) is bad


def test_a_base_that_is_malformed_itself_may_become_little_worse() -> None:
    assert objection(reading(1, 1, malformed=0.11, base_malformed=0.1), None) is None
    assert objection(reading(1, 1, malformed=0.13, base_malformed=0.1), None) is not None


@pytest.mark.parametrize(("lost", "bad"), [(0.05, False), (0.06, True), (None, False)])
def test_correct_answers_stay_at_95_percent(lost: float | None, bad: bool) -> None:
    assert (objection(reading(1, 1, lost=lost), None) is not None) is bad


def test_a_fall_of_correct_answers_is_told_with_its_bound() -> None:
    said = objection(reading(2.0, 1, lost=0.3), None)
    assert said == "correct answers may fall to 70% of the base's at 2"
