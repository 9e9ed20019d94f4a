"""Every experiment in little time: what is trained, written and claimed, not how good it is."""

import importlib.util
import json
from collections.abc import Callable

import numpy as np
import pytest

from prefreg import DataError, UsageError
from prefreg.evaluation.paper import retention, steering
from prefreg.evaluation.paper.catalogue import EXPERIMENTS, find_experiment
from prefreg.evaluation.paper.reproduce import Reproduced, estimate
from prefreg.evaluation.paper.retention import falls_to_chance
from prefreg.evaluation.statistics import Estimate, grouped_rate

pytestmark = pytest.mark.slow
Reproduce = Callable[..., Reproduced]


def check_written(made: Reproduced) -> None:
    """Check that numbers, page and pictures are there and say the same."""
    kept = json.loads((made.folder / "results.json").read_text("utf-8"))
    assert kept == json.loads(json.dumps(made.results))
    page = (made.folder / "results.md").read_text("utf-8")
    for each in kept["claims"]:
        assert each["claim"] in page
    assert made.findings.pictures
    for picture in made.findings.pictures:
        assert picture.path.read_bytes().startswith(b"\x89PNG")
        assert f"]({picture.path.name})" in page
    assert not list(made.folder.glob(".*"))


def test_extraction_takes_what_the_registry_has(reproduce: Reproduce) -> None:
    notes: list[str] = []
    made = reproduce("extraction", axes=("helpful", "verbose"), tell=notes.append)
    assert notes == [
        "Took helpful@1 of the registry, seed 0.",
        "Took verbosity@1 of the registry, seed 0.",
    ]
    check_written(made)
    assert list(made.results["data"]) == ["helpful", "verbosity"]
    found = made.results["data"]["verbosity"]
    assert set(found["at"]) == {"-1", "-0.5", "0", "0.5", "1"}
    assert found["effect"]["value"] == pytest.approx(found["up"]["value"] - found["down"]["value"])
    assert found["at"]["1"]["value"] == pytest.approx(
        found["at"]["0"]["value"] + found["up"]["value"]
    )
    assert "for this φ" in made.results["recipe"]


def test_the_grid_writes_the_sweep_too(reproduce: Reproduce) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steering, "ETAS", (-1.0, 0.0, 1.0))
        made = reproduce("grid", axes=("helpful", "verbosity"))
    check_written(made)
    assert len(made.results["data"]["helpful"]["at"]) == 9
    swept = json.loads((made.folder / "sweep-seed-0" / "prefreg.json").read_text("utf-8"))
    assert len(swept["settings"]) == 9
    # The grid's cell is the sweep's figure: both read the same answers.
    corner = next(
        each["evaluation"]
        for each in swept["settings"]
        if each["etas"] == {"helpful": 1, "verbosity": -1}
    )
    words = next(each for each in corner["figures"] if each["name"] == "verbosity")
    assert made.results["data"]["verbosity"]["at"]["-1,1"]["value"] == pytest.approx(
        words["value"]["value"]
    )


@pytest.fixture(scope="module")
def extended(reproduce: Reproduce) -> Reproduced:
    """Add harmless to the two axes that are there."""
    return reproduce("extension", axes=("helpful", "verbosity", "harmless"))


def test_an_extension_leaves_the_old_vectors_alone(extended: Reproduced) -> None:
    made = extended
    check_written(made)
    first = made.results["claims"][0]
    assert "stored byte" in first["claim"]
    assert first["held"] is True
    assert set(made.results["data"]["hashes"]) == {"helpful@1", "verbosity@1"}
    assert set(made.results["data"]["helpful"]["effect"]) == {"-1", "0", "1"}


def test_stacking_compares_with_each_dial_alone(reproduce: Reproduce, extended: Reproduced) -> None:
    registry = extended.folder / "registry.db"
    made = reproduce("stacking", registry, axes=("helpful", "verbosity", "harmless"))
    check_written(made)
    assert set(made.results["data"]["interference"]) == {"2", "3"}
    words = made.results["data"]["eta 1"]["verbosity"]
    assert set(words) == {"alone", "together", "of_the_dial"}


def test_retention_looks_for_chance(reproduce: Reproduce) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "ETAS", (0.0, 1.0, 8.0))
        patch.setattr(retention, "BEYOND", (64.0,))
        made = reproduce("retention", axes=("helpful",))
    check_written(made)
    facts = made.results["data"]["facts"]
    assert 0 < facts["chance"] < 0.5
    assert facts["helpful"]["at"]["0"]["value"] > facts["chance"]
    assert "8" in facts["helpful"]["at"]
    assert made.results["data"]["log_likelihood"]["chance"] is None


def test_commonsense_says_what_to_install(reproduce: Reproduce) -> None:
    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("the extra lm-eval is installed")
    with pytest.raises(DataError, match=r"pip install 'prefreg\[lm-eval\]'"):
        reproduce("commonsense")


def test_an_experiment_that_is_not_there_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'grid'"):
        find_experiment("gird")
    for each in EXPERIMENTS:
        assert callable(each.load())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"axes": ("helpful",)}, "takes 2 axes, not helpful"),
        ({"axes": ("helpful", "helpful")}, "names an axis twice"),
        ({"seeds": ()}, "one or more different seeds"),
        ({"seeds": (1, 1)}, "one or more different seeds"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    reproduce: Reproduce, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        reproduce("grid", **options)


GROUPS = [f"group {place}" for place in range(8)]


def test_only_prompts_that_count_for_every_seed_are_taken() -> None:
    first = np.array([1.0, 2, 3, 4, 5, 6, 7, np.nan])
    second = np.array([np.nan, 4.0, 5, 6, 7, 8, 9, 9])
    found = estimate([first, second], GROUPS)
    assert found is not None
    # Of the six prompts in between, the seeds have 4.5 and 6.5.
    assert found.value == pytest.approx(5.5)
    assert found.low < 4.5
    assert found.high > 6.5


def test_one_seed_is_about_its_own_vector() -> None:
    shares = np.array([1.0] * 8)
    assert estimate([shares], GROUPS) == grouped_rate([True] * 8, GROUPS)
    found = estimate([np.arange(8.0)], GROUPS)
    assert found is not None
    assert found.value == pytest.approx(3.5)


def test_too_few_prompts_are_no_figure() -> None:
    assert estimate([np.full(8, np.nan)], GROUPS) is None
    assert estimate([np.array([1.0, 5.0, *[np.nan] * 6])], GROUPS) is None


def at(value: float) -> Estimate:
    return Estimate(value, value, value, 10)


def test_chance_is_where_it_stays() -> None:
    values = {0.0: at(0.9), 2.0: at(0.29), 4.0: at(0.6), 8.0: at(0.28), 16.0: at(0.2)}
    assert falls_to_chance(values, 0.25) == 8
    assert falls_to_chance({0.0: at(0.9), 8.0: at(0.4)}, 0.25) is None
