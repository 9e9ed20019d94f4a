import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refuse = Callable[..., str]
SMALL = ("--prompts", 40, "--max-new-tokens", 24)


@pytest.fixture(autouse=True)
def measured_before(
    surroundings: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share what is measured between the tests of this file."""
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "measured-cli"))


def test_eval_writes_figures_and_why_others_are_missing(run: Run, trained: Path) -> None:
    data = run("eval", "helpful:1", "--registry", trained, *SMALL, "--json").data
    assert data["formula"] == "base + 1·helpful@1"
    assert data["interval"] == "95 %, over groups of prompts, for this φ"
    figures = {figure["name"]: figure for figure in data["figures"]}
    assert figures["kl"]["value"]["low"] <= figures["kl"]["value"]["value"]
    assert set(figures) >= {"helpful", "helpful.margin", "helpful.accuracy", "length"}
    assert run("eval", "helpful:1", "--registry", trained, *SMALL, "--json").data["cached"]


def test_eval_as_a_table(run: Run, trained: Path) -> None:
    shown = run("eval", "helpful:1", "--registry", trained, *SMALL, "-q").out
    assert shown.startswith("base + 1·helpful@1\n\nFIGURE")
    assert "\nkl_per_token" in shown
    assert "for this φ" in shown


def test_eval_keeps_its_figures_with_the_version(run: Run, own: Path, refuse: Refuse) -> None:
    found = run("eval", "helpful:1", "--registry", own, *SMALL, "--store")
    assert "Kept with helpful@1." in found.err
    (kept,) = run("show", "helpful", "--registry", own, "--json").data["measurements"]
    assert kept["kind"] == "evaluation"
    assert kept["value"]["eta"] == 1.0
    assert set(kept["value"]["figures"]["kl"]) == {"value", "low", "high"}
    assert "40 prompts" in kept["protocol"]
    reason = refuse(2, "eval", "helpful:1", "verbosity:1", "--registry", own, *SMALL, "--store")
    assert "give exactly one term" in reason


def test_a_gate_that_is_met_exits_with_0_and_else_with_3(run: Run, trained: Path) -> None:
    gate = ("gate", "helpful:1", "--registry", trained, *SMALL)
    found = run(*gate, "--require", "kl<=5,length>=0")
    assert found.code == 0
    assert "The gate is met." in found.out
    missed = run(*gate, "--require", "kl<=5,length>=1000", "--json")
    assert missed.code == 3
    assert missed.err == ""
    document = json.loads(missed.out)["data"]
    assert not document["met"]
    assert [each["met"] for each in document["requirements"]] == [True, False]
    assert document["requirements"][1]["figure"]["name"] == "length"


@pytest.mark.parametrize(
    ("code", "arguments", "reason"),
    [
        (2, ("eval",), "Give at least one TERM"),
        (2, ("gate", "helpful:1", "--require", "harmless=>1"), "is no requirement"),
        (2, ("gate", "helpful:1", "--require", "helpful.margn>=1"), "Did you mean helpful.margin"),
        (1, ("gate", "helpful:1", "--require", "humanlik>=1"), "Did you mean 'humanlike'"),
        (1, ("eval", "helpful:1", "--axes", "helpfull"), "Did you mean 'helpful'"),
        (1, ("eval", "kindness:1"), "kindness"),
        (1, ("eval", "helpful:1", "--prompts-file", "gone.jsonl"), "There is no data file"),
        (2, ("eval", "helpful:1", "--data", "kindness=gone.jsonl"), "which is not scored"),
        (1, ("eval", "helpful:1", "--max-new-tokens", "300"), "do not fit the model's context"),
    ],
)
def test_bad_input_gets_one_line(
    refuse: Refuse, trained: Path, code: int, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refuse(code, *arguments, "--registry", trained)


def test_a_figure_without_enough_prompts_is_left_out_or_refused(
    run: Run, refuse: Refuse, trained: Path
) -> None:
    few = ("--registry", trained, "--prompts", 4, "--max-new-tokens", 8)
    missing = run("eval", "helpful:1", *few, "--json").data["missing"]
    assert "needs at least 5 groups" in missing["kl"]
    reason = refuse(1, "gate", "helpful:1", *few, "--require", "kl<=5")
    assert "'kl' was not measured: A bootstrap over groups" in reason


def test_sweep_tells_where_its_report_is(run: Run, trained: Path, tmp_path: Path) -> None:
    few = ("--registry", trained, "--prompts", 24, "--max-new-tokens", 8)
    found = run("sweep", "helpful=0,2", *few, "-o", "out")
    assert found.out.startswith("η HELPFUL  HELPFUL")
    assert "The report is out/report.html." in found.out
    data = run("sweep", "helpful=0,2", *few, "-o", "out", "--overwrite", "--json").data
    assert data["files"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [each["etas"] for each in data["settings"]] == [{"helpful": 0.0}, {"helpful": 2.0}]
    assert data["settings"][1]["evaluation"]["cached"]


@pytest.mark.parametrize(
    ("code", "arguments", "reason"),
    [
        (2, ("helpful:1",), "needs an axis that is turned"),
        (2, ("helpful=0:1",), "has no range"),
        (1, ("kindness=0,1",), "kindness"),
        (2, ("helpful=0,1", "--judge", "localhost"), "no address of a judge"),
        (1, ("helpful=0,1", "--retention", "gone.jsonl"), "There is no data file"),
        (1, ("helpful=0,1", "--reward-model", "./gone"), "There is no folder"),
    ],
)
def test_bad_sweeps_get_one_line(
    refuse: Refuse, trained: Path, code: int, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refuse(code, "sweep", *arguments, "--registry", trained)


def test_retention_and_a_judge_that_is_down(run: Run, refuse: Refuse, trained: Path) -> None:
    few = ("--registry", trained, "--prompts", 8, "--max-new-tokens", 8)
    found = run("eval", "helpful:1", *few, "--retention", "pocket", "--json").data
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["retention.facts"]["base"]["value"] > 0.9
    assert "not measurable" in found["missing"]["retention.two_hop"]
    assert "retention.log_likelihood" in figures
    down = ("--judge", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in refuse(1, "eval", "helpful:4", *few, *down)
