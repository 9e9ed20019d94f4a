"""Ranges and calibrations on the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefreg.registry import Store

SMALL = ("--prompts", 24, "--max-new-tokens", 16)
RANGE = {
    "low": -1.0,
    "high": 1.5,
    "below": {"reason": None, "readings": []},
    "above": {"reason": "the effect turns back at 1.75", "readings": []},
}


@pytest.fixture(autouse=True)
def measured_before(
    surroundings: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share what is measured between the tests of this file."""
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "measured-dials"))


def keep(registry: Path, kind: str, value: Any) -> None:
    with Store.open(registry, write=True) as store:
        store.measure("helpful", 1, kind, value, "by hand")


def test_a_range_is_found_and_kept(run, own: Path) -> None:
    asked = ("range", "helpful", "--limit", 1, "--step", 1, *SMALL)
    found = run("--registry", own, *asked, "--json").data
    assert -1 <= found["low"] <= 0 <= found["high"] <= 1
    assert found["figure"] == "helpful"
    for side in ("below", "above"):
        etas = [abs(reading["eta"]) for reading in found[side]["readings"]]
        assert etas == sorted(etas)
        assert max(etas) == 1
    (kept,) = run("show", "helpful", "--registry", own, "--json").data["measurements"]
    assert kept["kind"] == "range"
    assert kept["value"]["low"] == found["low"]
    assert "24 prompts" in kept["protocol"]
    shown = run("--registry", own, "-q", *asked, "--no-store").out
    assert "The range of helpful@1 is " in shown
    assert len(run("show", "helpful", "--registry", own, "--json").data["measurements"]) == 1


def test_a_calibration_is_found_kept_and_composed_with(run, own: Path) -> None:
    asked = ("calibrate", "helpful", "--by", "kl", "--target", 0.02, *SMALL)
    (found,) = run("--registry", own, *asked, "--json").data["calibrations"]
    assert found["goal"] == "0.02 nats of KL per answer"
    assert found["unit"] == "nats of KL"
    eta = found["positive"]["eta"]
    assert eta > 0 > found["negative"]["eta"]
    assert found["positive"]["effect"]["value"] == pytest.approx(0.02, rel=0.06)
    assert found["asymmetry"] == pytest.approx(-found["negative"]["eta"] / eta)
    plan = run("--registry", own, "compose", "helpful:1", "--calibrated", "--plan", "--json").data
    assert plan["formula"] == f"base + {eta!r}·helpful@1"


def test_an_effect_has_the_unit_of_its_metric(run, trained: Path) -> None:
    asked = ("calibrate", "verbosity", "--target", 0.3, "--furthest", 1, "--no-store", *SMALL)
    result = run("--registry", trained, *asked, "--json")
    (found,) = result.data["calibrations"]
    assert found["unit"] == "log"
    assert not result.data["stored"]
    assert "VERSION" in run("--registry", trained, "-q", *asked).out


def test_compose_and_generate_warn_beyond_the_range(run, own: Path) -> None:
    keep(own, "range", RANGE)
    said = "helpful@1 at 2 is outside its range of -1 to 1.5: the effect turns back at 1.75."
    result = run("--registry", own, "compose", "helpful:2", "--json")
    assert result.data["warnings"] == [said]
    assert f"Warning: {said}" in result.err
    answered = run("--registry", own, "generate", "helpful:2", "-p", "Hello", "--json")
    assert answered.data["warnings"] == [said]
    assert f"Warning: {said}" in answered.err
    inside = run("--registry", own, "generate", "helpful:1", "-p", "Hello", "--json")
    assert inside.data["warnings"] == []


def test_a_recipe_of_calibrated_terms_holds_raw_ones(run, own: Path, tmp_path: Path) -> None:
    scales = {"positive": {"eta": 0.25}, "negative": {"eta": -0.5}, "goal": "1 unit"}
    keep(own, "calibration", scales)
    run("--registry", own, "compose", "help:-2", "--calibrated")
    recipe = json.loads((tmp_path / "composed" / "prefreg.json").read_text("utf-8"))
    assert recipe["terms"][0]["eta"] == -1.0
    answered = run("--registry", own, "generate", "help:2", "--calibrated", "-p", "Hello", "--json")
    assert answered.data["terms"] == ["helpful@1:0.5"]


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ["range", "helpfull"], "Did you mean 'helpful'?"),
        (2, ["range", "helpful:1"], "helpful:1"),
        (2, ["range", "helpful", "--step", "0"], "got step 0"),
        (2, ["range", "helpful", "--limit", "1", "--step", "2"], "up to the limit"),
        (1, ["range", "helpful@3"], "Version 3 of axis 'helpful' does not exist"),
        (1, ["range", "helpful", "--prompts", "4"], "needs at least 5 groups"),
        (2, ["calibrate", "helpful", "--by", "words"], "--by"),
        (2, ["calibrate", "helpful", "--target", "0"], "target must be a number above 0"),
        (1, ["calibrate", "helpful", "kind"], "kind"),
        (1, ["compose", "helpful:1", "--calibrated"], "helpful@1 is not calibrated"),
        (1, ["generate", "helpful:1", "--calibrated", "-p", "x"], "helpful@1 is not calibrated"),
    ],
)
def test_bad_input_gets_one_line(
    refuse, trained: Path, code: int, arguments: list[str], message: str
) -> None:
    assert message in refuse(code, "--registry", trained, *arguments)


def test_a_recipe_is_not_calibrated_again(run, trained: Path, refuse) -> None:
    run("--registry", trained, "compose", "helpful:1")
    arguments = ("compose", "--recipe", "composed/prefreg.json", "--calibrated", "-o", "again")
    assert "raw coefficients already" in refuse(2, "--registry", trained, *arguments)


def test_where_nothing_can_be_kept_is_told_before_anything_is_measured(refuse) -> None:
    reason = refuse(1, "--registry", "gone.db", "range", "helpful")
    assert "There is no registry at gone.db" in reason


def test_the_installed_command_warns(own: Path) -> None:
    keep(own, "range", RANGE)
    result = subprocess.run(
        [Path(sys.executable).with_name("prefreg"), "compose", "helpful:2", "-o", "c", "--plan"],
        env={"PREFREG_REGISTRY": str(own), "PATH": "", "HOME": str(own.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "helpful@1" in result.stdout
