"""The Gaussian process by its laws, and the searches on a problem whose answer is known."""

import numpy as np
import pytest

from prefreg.choosing.search import (
    Bound,
    GeometrySearch,
    Goal,
    Measured,
    normal_cdf,
    outside_hull,
    spread_points,
)
from prefreg.choosing.surrogate import Surrogate, _likelihood

RANDOM = np.random.default_rng(0)


def flat(points: np.ndarray) -> np.ndarray:
    return np.zeros(len(points))


def test_the_gradient_of_the_likelihood_is_that_of_differences() -> None:
    points, residual = RANDOM.uniform(-1, 1, (12, 2)), RANDOM.normal(size=12)
    errors, logs = np.full(12, 0.1), np.log([0.5, 0.4, 0.7, 1.0, 1.5])
    _, gradient = _likelihood(points, residual, errors, logs)
    steps = 1e-5 * np.eye(len(logs))
    differences = [
        (
            _likelihood(points, residual, errors, logs + step)[0]
            - _likelihood(points, residual, errors, logs - step)[0]
        )
        / 2e-5
        for step in steps
    ]
    assert gradient == pytest.approx(differences, rel=1e-5)


def test_without_a_setting_the_prior_is_what_is_expected() -> None:
    none = np.zeros((0, 2))
    model = Surrogate.fit(lambda points: 3 + points @ [1.0, -2.0], none, none[:, 0], none[:, 0])
    mean, deviation = model.predict(np.array([[0.5, 0.25]]))
    assert mean == pytest.approx([3.0])
    assert deviation[0] > 0.4


def test_what_was_measured_exactly_is_known_and_what_is_far_is_not() -> None:
    points = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5]])
    model = Surrogate.fit(flat, points, np.array([1.0, -1.0, 0.5]), np.full(3, 1e-4))
    mean, deviation = model.predict(np.vstack([points, [[1.0, -1.0]]]))
    assert mean[:3] == pytest.approx([1.0, -1.0, 0.5], abs=1e-3)
    assert deviation[:3] == pytest.approx([0, 0, 0], abs=1e-3)
    assert deviation[3] > 10 * deviation[:3].max()


def test_a_point_that_comes_out_as_expected_narrows_and_moves_nothing() -> None:
    points = RANDOM.uniform(-1, 1, (6, 2))
    model = Surrogate.fit(flat, points, points[:, 0], np.full(6, 0.1))
    new = np.array([0.2, 0.3])
    (mean,), (before,) = model.predict(new[None])
    (after,), (narrower,) = model.with_point(new, float(mean), 0.1).predict(new[None])
    assert after == pytest.approx(mean)
    assert narrower < before


def test_the_normal_distribution_function() -> None:
    assert normal_cdf(np.array([-1.2816, 0.0, 1.6449])) == pytest.approx([0.1, 0.5, 0.95], abs=1e-5)


def test_spread_points_fill_every_corner_and_the_middle() -> None:
    points = spread_points(64, 2, 0)
    assert np.abs(points).max() <= 1
    for corner in ([1, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]):
        assert np.sqrt(((points - corner) ** 2).sum(1)).min() < 0.4


@pytest.mark.parametrize(
    ("point", "outside"),
    [([0.2, 0.2], False), ([0.5, 0.5], False), ([0.6, 0.6], True), ([-0.2, 0.5], True)],
)
def test_a_triangle_is_its_own_hull(point: list[float], outside: bool) -> None:
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert outside_hull(np.array(point), triangle) is outside


def kl(points: np.ndarray) -> np.ndarray:
    return np.asarray((points**2).sum(1))


def search_a_disc(goals: list[Goal], budget: int) -> GeometrySearch:
    """Look for the largest x + y inside a disc: it is 1 at (.5, .5)."""
    bounds = [Bound("kl", -1, 0.5)]
    priors = {"x": lambda p: p[:, 0], "y": lambda p: p[:, 1], "sum": flat, "kl": kl}
    search = GeometrySearch(goals, bounds, priors, 2, 4, seed=1)
    random = np.random.default_rng(2)
    while len(search.measured) < budget:
        for point in search.ask(2):
            truth = {"x": point[0], "y": point[1], "sum": point.sum(), "kl": (point**2).sum()}
            levels = {n: (float(v + random.normal(0, 0.02)), 0.02) for n, v in truth.items()}
            search.tell(Measured(tuple(point), levels))
    return search


def test_the_best_feasible_setting_is_found_in_few_steps() -> None:
    search = search_a_disc([Goal("sum", 1)], 14)
    best = search.winner()
    assert 0.85 < best.sum() <= 1.0
    assert (best**2).sum() <= 0.5
    assert search.confirmation(best[None])[0] >= 0.5
    cautious = search.winner(0.9)
    assert search.feasibility(cautious[None]).prod() >= 0.95
    assert (cautious**2).sum() < (best**2).sum()


def test_several_goals_spread_over_the_front() -> None:
    search = search_a_disc([Goal("x", 1), Goal("y", 1)], 20)
    found = np.array([each.point for each in search.measured[8:]])
    near = found[np.abs(np.sqrt((found**2).sum(1)) - 0.5**0.5) < 0.15]
    angles = np.degrees(np.arctan2(near[:, 1], near[:, 0]))
    assert angles.min() < 30
    assert angles.max() > 60


def test_fresh_prompts_that_fall_short_make_it_more_careful() -> None:
    search = search_a_disc([Goal("sum", 1)], 14)
    bold = search.winner()
    short = {"sum": (bold.sum(), 0.02), "kl": ((bold**2).sum() + 0.1, 0.02)}
    search.tell(Measured(tuple(bold), short), fresh=True)
    assert search.shift("kl") == pytest.approx(0.05, abs=0.02)
    assert (search.winner() ** 2).sum() < (bold**2).sum() - 0.02


def test_optuna_suggests_settings_and_hears_of_them() -> None:
    optuna = pytest.importorskip("optuna")
    from prefreg.choosing.optuna_search import OptunaSearch

    bounds = [Bound("kl", -1, 0.5)]
    search = OptunaSearch([Goal("sum", 1)], bounds, 2, seed=0)
    search.tell(Measured((0.0, 0.0), {"sum": (0.0, 0.1), "kl": (0.0, 0.1)}))
    for point in search.ask(2):
        assert np.abs(point).max() <= 1
        levels = {"sum": (float(point.sum()), 0.1), "kl": (float((point**2).sum()), 0.1)}
        search.tell(Measured(tuple(point), levels))
    states = [trial.state for trial in search._study.trials]
    assert states == [optuna.trial.TrialState.COMPLETE] * 3
    # What is known of KL alone is no value of the goal.
    (point,) = search.ask(1)
    search.tell(Measured(tuple(point), {"kl": (3.0, 0.1)}))
    assert search._study.trials[-1].state is optuna.trial.TrialState.FAIL
