from pathlib import Path

import pytest

import tiny
from prefreg.evaluation.diagnosis import pole_eta

SMALL = ("--prompts", 24, "--max-new-tokens", 16)


@pytest.fixture(autouse=True)
def measured_before(
    surroundings: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share what is measured between the tests of this file and that of ranges."""
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "measured-dials"))


def test_dials_that_are_hardly_turned_are_weak(run, trained: Path) -> None:
    asked = ("diagnose", "helpful:0.01", "verbosity:0.01", *SMALL)
    found = run("--registry", trained, *asked, "--json").data
    assert found["formula"] == "base + 0.01·helpful@1 + 0.01·verbosity@1"
    weak = [each for each in found["findings"] if each["sign"] == "weak"]
    assert [each["subject"] for each in weak] == ["helpful@1", "verbosity@1"]
    assert all(each["cause"] != "lost in the cast" for each in weak)
    assert [each["dial"] for each in found["refusals"]["alone"]] == ["helpful@1", "verbosity@1"]
    shown = run("--registry", trained, "-q", *asked).out
    assert "WEAK, helpful@1: " in shown
    assert "  → " in shown


def test_a_dial_that_is_torn_off_is_incoherent(run, trained: Path) -> None:
    found = run("--registry", trained, "diagnose", "verbosity:-400", *SMALL, "--json").data
    (broken,) = [each for each in found["findings"] if each["sign"] == "incoherent"]
    assert (broken["subject"], broken["cause"]) == ("verbosity@1", "η is too large")
    assert found["malformed"]["composition"] > 0.02


def test_poles_lie_where_their_record_says(tmp_path: Path) -> None:
    base = tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "base")
    geometry = {"norm": 2.0, "positive_norm": 1.0, "negative_norm": 3**0.5, "cosine_poles": 0.0}
    record = tiny.record("helpful", base, metadata={"geometry": geometry})
    # φ = φ₊ − φ₋ of length 2: its projections are 1/4 and 3/4 of it.
    assert pole_eta(record, 1.0) == pytest.approx(0.25)
    assert pole_eta(record, -1.0) == pytest.approx(-0.75)
    assert pole_eta(tiny.record("helpful", base), -1.0) == -0.5


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, [], "Give at least one TERM"),
        (2, ["helpful"], "not a term"),
        (2, ["helpful:0"], "has no direction"),
        (1, ["helpfull:1"], "Did you mean 'helpful'?"),
    ],
)
def test_bad_input_gets_one_line(
    refuse, trained: Path, code: int, arguments: list[str], message: str
) -> None:
    assert message in refuse(code, "--registry", trained, "diagnose", *arguments)


def test_layers_add_up_to_the_whole_vector(run, trained: Path) -> None:
    asked = ("profile", "helpful:0.2", "--blocks", 2, *SMALL)
    found = run("--registry", trained, *asked, "--json").data
    layers = [part["layers"] for part in found["blocks"]]
    assert layers[-2:] == [["layer 0", "layer 1"], ["layer 2", "layer 3"]]
    assert len(found["growing"]) == len(found["blocks"])
    assert found["growing"][-1] == found["whole"]
    # So near the base, what blocks do to the margin adds up.
    total = sum(part["effect"] for part in found["blocks"])
    assert total == pytest.approx(found["whole"]["effect"], rel=0.2)
    assert found["whole"]["kl"] > 0
    shown = run("--registry", trained, "-q", *asked).out
    assert "layers 0-1" in shown
