import csv
import json
from pathlib import Path

import pytest

import prefreg
from prefreg import OutputError
from prefreg.errors import RegistryError
from prefreg.evaluation import evaluator
from prefreg.evaluation.evaluation_request import EvaluationRequest

SMALL = EvaluationRequest(prompts=24, max_new_tokens=12)
GRID = ["helpful=0,2", "verbosity=-1:1:1"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share what is measured between the tests of this file."""
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "swept"))


def test_a_sweep_writes_tables_pictures_and_a_report(trained: Path, tmp_path: Path) -> None:
    seen: list[tuple[object, ...]] = []
    found = prefreg.open(trained).sweep(
        GRID, tmp_path / "out", SMALL, progress=lambda *step: seen.append(step)
    )
    assert found.files == (
        "curves.png", "heatmaps.png", "pareto.png", "prefreg.json", "report.html", "table.csv",
    )  # fmt: skip
    assert [cell.etas for cell in found.cells] == [
        (0, -1), (0, 0), (0, 1), (2, -1), (2, 0), (2, 1),
    ]  # fmt: skip
    assert seen[-1] == ("settings", 6, 6)
    kept = json.loads((tmp_path / "out" / "prefreg.json").read_text("utf-8"))
    assert kept["settings"][0]["etas"] == {"helpful": 0, "verbosity": -1}
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    base = next(row for row in rows if row["figure"] == "kl" and row["helpful"] == "0")
    assert {"helpful", "verbosity", "value", "low", "high", "unit", "groups"} <= base.keys()
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert report.count("data:image/png;base64,") == 3
    assert "helpful@1" in report
    assert "24 prompts in" in report
    assert not list(tmp_path.glob(".out*"))


def test_one_dial_has_no_heat_map(trained: Path, tmp_path: Path) -> None:
    found = prefreg.open(trained).sweep("helpful=0:2:2", tmp_path / "out", SMALL)
    assert "heatmaps.png" not in found.files
    assert {"curves.png", "pareto.png"} <= {*found.files}


def test_aliases_and_fixed_terms(trained: Path, tmp_path: Path) -> None:
    found = prefreg.open(trained).sweep(["verbose=0,1", "helpful:2"], tmp_path / "out", SMALL)
    assert found.axes == ("verbosity",)
    assert found.scored == ("helpful", "verbosity")
    assert [cell.evaluation.candidate.formula for cell in found.cells] == [
        "base + 2·helpful@1",
        "base + 2·helpful@1 + 1·verbosity@1",
    ]


def test_what_lies_there_is_not_lost(trained: Path, tmp_path: Path) -> None:
    registry = prefreg.open(trained)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, overwrite in (("mine", False), ("mine", True), ("file", True)):
        with pytest.raises(OutputError):
            registry.sweep("helpful=0,2", tmp_path / name, SMALL, overwrite=overwrite)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"
    registry.sweep("helpful=0,2", tmp_path / "out", SMALL)
    before = (tmp_path / "out" / "report.html").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        registry.sweep("verbosity=0,1", tmp_path / "out", SMALL)
    assert (tmp_path / "out" / "report.html").read_bytes() == before
    registry.sweep("verbosity=0,1", tmp_path / "out", SMALL, overwrite=True)
    assert b"verbosity" in (tmp_path / "out" / "report.html").read_bytes()


def test_an_interrupted_sweep_goes_on_where_it_was(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    registry = prefreg.open(trained)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.sweep("helpful=1:3:1", tmp_path / "out", SMALL, progress=interrupt)
    assert not (tmp_path / "out").exists()
    computed: list[str] = []
    part = evaluator.Evaluator.part

    def counting(self, candidate, name, protocol, compute):  # type: ignore[no-untyped-def]
        def noted():  # type: ignore[no-untyped-def]
            computed.append(f"{name} of {candidate.formula}")
            return compute()

        return part(self, candidate, name, protocol, noted)

    monkeypatch.setattr(evaluator.Evaluator, "part", counting)
    registry.sweep("helpful=1:3:1", tmp_path / "out", SMALL)
    assert computed == [
        "answers of base + 3·helpful@1",
        "pairs-helpful of base + 3·helpful@1",
    ]


def test_an_axis_without_a_version_is_told_before_anything_is_measured(
    trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError):
        prefreg.open(trained).sweep(["helpful=0,1", "humanlike=0,1"], tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()
