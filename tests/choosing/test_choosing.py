"""Decoupling, tuning and blame on the bundled model and its shipped vectors."""

import shutil
from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import prefreg
from prefreg.choosing.choosing_request import TuneRequest
from prefreg.choosing.decouple import Dialling, sign_test, solve_in_box
from prefreg.choosing.gauges import Gauge, Panel, answer_scores, jackknife
from prefreg.choosing.search import Goal
from prefreg.choosing.study import part_prompts
from prefreg.choosing.tune import parse_target, refuse_contradictions
from prefreg.errors import DataError, Interrupted, UsageError
from prefreg.evaluation.calibration import Unit
from prefreg.evaluation.evaluate import parse_requirements
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.prompts import Asked
from prefreg.registry import Access
from prefreg.terms import Term

pytestmark = pytest.mark.slow
SHIPPED = Path(__file__).parents[2] / "registry.db"
SMALL = {"prompts": 64, "max_new_tokens": 40}
FEW = SMALL | {"prompts": 32}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the shipped vectors, with their ranges."""
    return Path(shutil.copy(SHIPPED, tmp_path_factory.mktemp("choosing") / "registry.db"))


@pytest.fixture(autouse=True)
def measured_before(
    surroundings: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share what is measured between the tests of this file."""
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "choosing-cache"))


def opened(registry: Path, *axes: str) -> Evaluator:
    request = EvaluationRequest(**SMALL)
    evaluator = open_dials(Access(registry), [Term(axis, 1.0) for axis in axes], request)
    evaluator.coupled = True
    return evaluator


def test_levels_are_there_and_back() -> None:
    for unit, value in ((Unit.LOG_ODDS, 0.7), (Unit.LOG, 12.0), (Unit.NATS, 0.4)):
        gauge = Gauge(SimpleNamespace(), SimpleNamespace(name="x"), unit)  # type: ignore[arg-type]
        assert gauge.value_of(gauge.level_of(value)) == pytest.approx(value)
    odds = Gauge(SimpleNamespace(), SimpleNamespace(name="x"), Unit.LOG_ODDS)  # type: ignore[arg-type]
    assert float(odds.level(np.array([3.0, 4.0]))) == pytest.approx(log(3.5 / 1.5))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0, 11.0])
    sums = np.stack([values, np.ones(5)], axis=1)
    mean, error = jackknife(sums, lambda s: s[..., 0] / s[..., 1], "x")
    assert mean == 5
    assert error == pytest.approx(values.std(ddof=1) / 5**0.5)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match="ask for more prompts"):
        jackknife(np.ones((4, 2)), lambda s: s[..., 0], "correct")


def test_a_quadratic_is_minimised_inside_its_bounds() -> None:
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    right = np.array([4.0, 7.0])
    free = solve_in_box(matrix, right, np.array([-9.0, -9.0]), np.array([9.0, 9.0]))
    assert free == pytest.approx(np.linalg.solve(matrix, right), abs=1e-8)
    # With x held at .5, the other solves 3y = 7 − .5.
    held = solve_in_box(matrix, right, np.array([-9.0, -9.0]), np.array([0.5, 9.0]))
    assert held == pytest.approx([0.5, 6.5 / 3])


@pytest.mark.parametrize(("hits", "count", "p"), [(0, 5, 2 / 32), (2, 4, 1.0), (0, 0, 1.0)])
def test_splits_by_chance(hits: int, count: int, p: float) -> None:
    assert sign_test(hits, count) == pytest.approx(p)


def test_targets_are_read() -> None:
    assert parse_target("helpful=max, kl=min") == [Goal("helpful", 1), Goal("kl", -1)]


@pytest.mark.parametrize("text", ["helpful", "helpful=most", "", "helpful=max,helpful=min"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


def test_bounds_that_contradict_each_other_are_named() -> None:
    with pytest.raises(UsageError, match=r"kl>=0.5 and kl<=0.4 contradict"):
        refuse_contradictions(parse_requirements("kl>=0.5,helpful>=0.2,kl<=0.4"))
    refuse_contradictions(parse_requirements("kl>=0.4,kl<=0.5"))


def test_fresh_prompts_are_others() -> None:
    prompts = [Asked(str(number), f"group {number // 2}") for number in range(16)]
    search, fresh = part_prompts(prompts[:8], prompts[4:])
    assert search == prompts[:8]
    assert fresh == prompts[8:]
    # The same prompts again: a fourth of their groups is kept from the search.
    search, fresh = part_prompts(prompts, prompts)
    assert fresh == prompts[6:8] + prompts[14:16]
    assert not set(search) & set(fresh)


def test_equal_weights_give_equal_answers_and_near_ones_mostly_do(shipped: Path) -> None:
    evaluator = opened(shipped, "helpful", "harmless")
    plain = [each.ids for each in evaluator.sample(evaluator.plain)]
    assert plain == [each.ids for each in evaluator.sample(evaluator.at([0.0, 0.0]))]
    near = [each.ids for each in evaluator.sample(evaluator.at([0.02, 0.0]))]
    assert np.mean([one == other for one, other in zip(plain, near, strict=True)]) > 0.85
    # The rest of a crowd does not matter: the first of a block draws as it did.
    few = evaluator.asking(sorted(evaluator.asked, key=lambda each: len(each.text))[:8])
    assert [each.ids for each in few.sample(few.plain)] == [
        each.ids for each in few.asking(few.asked).sample(few.plain)
    ]


def test_scores_are_slopes_of_log_probabilities(shipped: Path) -> None:
    evaluator = opened(shipped, "helpful", "harmless")
    scores = answer_scores(evaluator, evaluator.plain)
    assert scores.shape == (64, 2)
    # Under the model itself they are 0 on average, up to chance.
    error = scores.std(0, ddof=1) / 64**0.5
    assert (np.abs(scores.mean(0)) < 4 * error).all()
    # The share of refusals has the slope that it has between two settings with the same chance.
    gauge = Panel(evaluator).gauge("harmless")
    slopes = gauge.slopes(evaluator.plain, scores)
    steps = [evaluator.at([eta, 0.0]) for eta in (0.3, -0.3)]
    up, down = (gauge.read(candidate).level for candidate in steps)
    spread = slopes.std(0, ddof=1) * len(slopes) ** 0.5
    assert slopes.sum(0)[0] == pytest.approx((up - down) / 0.6, abs=3 * spread[0])
    assert slopes.sum(0)[0] > 2 * spread[0]


def test_one_axis_moves_and_the_other_stays(shipped: Path) -> None:
    found = prefreg.open(shipped).decouple({"harmless": 1, "helpful": 0}, **SMALL)
    assert [aim.axis for aim in found.aims] == ["harmless", "helpful"]
    assert all(aim.reached for aim in found.aims)
    assert found.aims[0].effect.value == pytest.approx(1, abs=0.4)
    assert abs(found.aims[1].effect.value) < 0.3
    assert found.steps[0].etas == (0, 0)
    assert found.condition > 0.1
    assert {term.axis for term in found.terms} == {"harmless", "helpful"}
    assert found.kl.value > 0
    assert all(0 <= each.against <= each.moved for each in found.per_prompt)


def test_what_is_out_of_reach_is_refused_with_the_nearest_point(shipped: Path) -> None:
    with pytest.raises(DataError, match=r"not reached inside the ranges.*nearest point is "):
        prefreg.open(shipped).decouple({"harmless": 9, "helpful": -9}, **SMALL)


def test_effects_without_any_are_refused(shipped: Path) -> None:
    with pytest.raises(UsageError, match="an effect that is wanted"):
        prefreg.open(shipped).decouple({"helpful": 0}, **SMALL)


def test_a_dial_without_a_range_says_how_to_get_one(trained: Path) -> None:
    with pytest.raises(DataError, match="run `prefreg range helpful@1` first"):
        prefreg.open(trained).decouple({"helpful": 1, "verbosity": 0}, **SMALL)


def test_a_study_recommends_what_fresh_prompts_confirm_and_goes_on(shipped: Path) -> None:
    registry = prefreg.open(shipped)
    tuning = TuneRequest("helpful=max", "kl<=0.9", ("helpful", "harmless"), 8, "first", 3)

    def stop(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        if stage == "settings" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="4 of 8 settings are measured and kept"):
        registry.tune(tuning, progress=stop, **FEW)
    found = registry.tune(tuning, **FEW)
    assert len(found.trials) == 8
    assert found.best.trial.fresh
    assert found.best.probability >= 0.9
    figures = {each.name: each for each in found.best.figures}
    base = {each.name: each for each in found.base}
    assert figures["helpful"].value > base["helpful"].value
    assert figures["kl"].value <= 0.9
    data = found.to_json()
    assert set(data["best"]["terms"]) == {"helpful", "harmless"}
    assert data["best"]["compose"].startswith("prefreg compose ")
    # What was measured is kept, and not measured again.
    again = registry.tune(tuning, budget=9, **FEW)
    assert again.trials[:8] == found.trials
    assert len(again.trials) == 9
    with pytest.raises(UsageError, match="of other versions, prompts or figures"):
        registry.tune(tuning, prompts=48, max_new_tokens=40)


def test_what_cannot_be_met_names_the_bound_and_the_nearest(shipped: Path) -> None:
    tuning = TuneRequest("helpful=max", "harmless>=0.999,kl<=0.05", ("helpful", "harmless"), 8)
    with pytest.raises(DataError, match=r"harmless>=0.999.*The nearest is"):
        prefreg.open(shipped).tune(tuning, **SMALL)


@pytest.mark.parametrize(
    ("tuning", "error", "message"),
    [
        (TuneRequest("helpful=max", budget=4), UsageError, "too small to learn how 6 dials act"),
        (TuneRequest("helpfull=max", axes=("helpful",)), prefreg.PrefregError, "helpfull"),
    ],
)
def test_studies_that_cannot_be(
    shipped: Path, tuning: TuneRequest, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prefreg.open(shipped).tune(tuning, **SMALL)


def test_blame_names_what_each_term_does(shipped: Path) -> None:
    found = prefreg.open(shipped).blame({"helpful": 1, "harmless": 1}, **SMALL)
    by_key = {(each.term, each.figure): each for each in found.shares}
    own = by_key["harmless@1", "harmless"]
    assert own.change.value > 0.3
    assert own.told
    assert own.whole - own.without == pytest.approx(own.change.value)
    with pytest.raises(UsageError, match="two or more"):
        prefreg.open(shipped).blame({"helpful": 1})


def test_dials_that_are_one_are_not_told_apart(shipped: Path) -> None:
    evaluator = opened(shipped, "helpful", "harmless")
    dialling = Dialling.open(evaluator)
    twice = Dialling(
        evaluator, (dialling.gauges[0],) * 2, dialling.low, dialling.high, dialling.gram
    )
    assert twice.conditioning()[0] < 1e-6
