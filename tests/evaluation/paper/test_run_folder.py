from dataclasses import replace
from pathlib import Path

import pytest

from prefreg import OutputError
from prefreg.evaluation.paper import run_folder
from prefreg.evaluation.paper.run_folder import (
    Claim,
    Findings,
    ReproduceRequest,
    Table,
    markdown,
    view,
)
from prefreg.evaluation.statistics import Estimate, show


def request(tmp_path: Path) -> ReproduceRequest:
    return ReproduceRequest("grid", tmp_path / "out", seeds=(0,))


def test_the_same_request_finds_its_folder_again(tmp_path: Path) -> None:
    asked = request(tmp_path)
    run_folder.claim(asked)
    (asked.output / "registry.db").write_bytes(b"work")
    run_folder.claim(asked)
    run_folder.finish(
        asked.output, asked, "Two dials", Findings("recipe", [Claim("it is", True, "1")])
    )
    run_folder.claim(asked)
    run_folder.give_up(asked.output)
    assert sorted(path.name for path in asked.output.iterdir()) == [
        "experiment.json", "registry.db", "results.json", "results.md",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "retention"}, "the experiment 'grid'"),
        ({"seeds": (0, 1)}, r"begun with seeds \[0\], not \[0, 1\]"),
        ({"settings": ("max_steps=2",)}, "begun with settings"),
    ],
)
def test_another_request_needs_another_folder(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    asked = request(tmp_path)
    run_folder.claim(asked)
    with pytest.raises(OutputError, match=words):
        run_folder.claim(replace(asked, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_what_is_not_an_experiment_is_left_alone(tmp_path: Path, content: str | None) -> None:
    asked = request(tmp_path)
    asked.output.mkdir()
    (asked.output / "notes.txt").write_text("precious")
    if content is not None:
        (asked.output / run_folder.MARKER).write_text(content)
    with pytest.raises(OutputError, match="something else"):
        run_folder.claim(asked)
    assert (asked.output / "notes.txt").read_text() == "precious"


def test_a_folder_in_which_nothing_was_done_goes(tmp_path: Path) -> None:
    asked = request(tmp_path)
    run_folder.claim(asked)
    run_folder.give_up(asked.output)
    assert not asked.output.exists()


def test_a_page_has_claims_tables_and_notes() -> None:
    estimated = Estimate(0.5, 0.25, 0.75, 4)
    found = Findings("a recipe")
    found.claims = [Claim("it rises", True, show(estimated)), Claim("it falls", None, "no data")]
    found.tables = [Table("Figures", ("η", "share"), (("1", show(estimated)),))]
    found.notes = ["a word"]
    assert markdown("What it shows", found) == (
        "# What it shows\n\na recipe\n\n"
        "- it rises — **held**: 0.50 [0.25, 0.75].\n"
        "- it falls — **not measured**: no data.\n\n"
        "## Figures\n\n| η | share |\n|---|---|\n| 1 | 0.50 [0.25, 0.75] |\n\n"
        "## Notes\n\n- a word\n"
    )
    assert view(None) is None
    assert show(None) == "-"
