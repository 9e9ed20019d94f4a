import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefreg
from prefreg import OutputError, UsageError
from prefreg.errors import RegistryError
from prefreg.evaluation import evaluator
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.plots import Picture
from prefreg.evaluation.sweep import TableCell, parse_grid, write_report
from prefreg.terms import Term

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
    with pytest.raises(OutputError, match="`overwrite=`"):
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


def test_a_range_ends_where_it_says_and_hits_0_exactly() -> None:
    (turned,) = parse_grid(["helpful=-0.3:0.3:0.1"]).turned
    assert turned.etas == (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    (turned,) = parse_grid(["helpful@2=0:1:0.4"]).turned
    assert (turned.reference, turned.etas) == ("2", (0.0, 0.4, 0.8))


def test_every_combination_is_a_setting_and_terms_stay() -> None:
    grid = parse_grid(["helpful=1,-1", "harmless@stable=0:1:1", "verbosity:0.5"])
    assert len(grid) == 4
    settings = list(grid.cells())
    assert [etas for etas, _ in settings] == [(-1, 0), (-1, 1), (1, 0), (1, 1)]
    assert settings[1][1] == (
        Term("helpful", -1),
        Term("harmless", 1, "stable"),
        Term("verbosity", 0.5),
    )


@given(st.integers(-50, 50), st.integers(0, 40), st.sampled_from([0.01, 0.05, 0.1, 0.25, 1.0, 3.0]))
def test_a_range_has_as_many_steps_as_fit(start: int, count: int, step: float) -> None:
    low, high = round(start * step, 6), round((start + count) * step, 6)
    (turned,) = parse_grid([f"helpful={low}:{high}:{step}"]).turned
    assert len(turned.etas) == count + 1
    assert turned.etas[-1] == pytest.approx(high)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["helpful:1"], "needs an axis that is turned"),
        (["helpful=1:2"], "has no range"),
        (["helpful=0:1:0"], "goes nowhere"),
        (["helpful=1:0:0.5"], "goes nowhere"),
        (["helpful=0:1:nan"], "is no finite number"),
        (["helpful=0,x"], "is no finite number"),
        (["helpful=1,1.0"], "names a coefficient twice"),
        (["Helpful=0:1:1"], "does not begin with an axis name"),
        (["helpful=0:1:0.000001"], "has more than 2000 steps: take larger ones"),
        (["helpful=-1e308:1e308:1"], "steps: take larger ones"),
        (["helpful=0:1:1e-320"], "steps: take larger ones"),
        (["helpful=0:100:1", "harmless=0:100:1"], "10201 settings are more than"),
        (["helpful=0:1:1", "harmless=1:"], "has no range"),
        (["helpful=0:1:1", "harmless:x"], "is not a number"),
    ],
)
def test_malformed_grids_are_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_grid(texts)


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def written(folder: Path) -> str:
    (folder / "a.png").write_bytes(PIXEL)
    write_report(
        folder / "report.html",
        title="Sweep of <b> & c",
        recipe="θ",
        facts=[("base", "pocket")],
        pictures=[Picture(folder / "a.png", "Curves", "What is <seen>.")],
        headers=["setting", "kl"],
        rows=[[TableCell("helpful:1", best=True), TableCell("0.1", "0.0 to 0.2")]],
        notes=["A note."],
    )
    return (folder / "report.html").read_text("utf-8")


def test_a_report_is_one_file_that_asks_nothing_of_a_network(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "http" not in text
    assert "@import" not in text
    assert base64.b64encode(PIXEL).decode() in text


def test_texts_are_escaped_and_every_tag_is_closed(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "Sweep of &lt;b&gt; &amp; c" in text
    open_tags: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Balanced().feed(text)
    assert open_tags == []


def test_figures_have_their_intervals_and_pictures_their_captions(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "<td>0.1<small>0.0 to 0.2</small></td>" in text
    assert '<td class="best">helpful:1</td>' in text
    assert "<figcaption>What is &lt;seen&gt;.</figcaption>" in text
