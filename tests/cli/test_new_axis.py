"""`prefreg new-axis`: what it writes, and what it refuses."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prefreg import Axis, PreferencePair
from prefreg.authoring.scaffold import write_package
from prefreg.axes.plugins import AxisCatalog, Plugin
from prefreg.errors import OutputError


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_package_is_complete_and_speaks_of_its_axis(run, tmp_path: Path) -> None:
    found = run("new-axis", "dry-wit", "--json")
    assert (found.code, found.err) == (0, "")
    written = texts(tmp_path / "prefreg-axis-dry-wit")
    assert sorted(written) == found.data["files"]
    assert set(written) == {
        ".github/workflows/publish.yml",
        ".github/workflows/test.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "src/prefreg_axis_dry_wit/__init__.py",
        "src/prefreg_axis_dry_wit/py.typed",
        "src/prefreg_axis_dry_wit/sample.jsonl",
        "tests/test_axis.py",
    }
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["name"] == "prefreg-axis-dry-wit"
    assert project["entry-points"]["prefreg"] == {"dry-wit": "prefreg_axis_dry_wit"}
    assert "${{ matrix.python }}" in written[".github/workflows/test.yml"]
    assert 'name="dry-wit"' in written["src/prefreg_axis_dry_wit/__init__.py"]


def test_what_is_printed_can_be_typed(run, tmp_path: Path) -> None:
    found = run("new-axis", "wit", "--output", "my axes/wit")
    assert found.out.splitlines() == [
        "Wrote my axes/wit (10 files). Next:",
        "  pip install -e './my axes/wit[dev]'",
        "  prefreg check-axis wit",
        "  prefreg add-axis wit --base pocket",
    ]
    assert (tmp_path / "my axes" / "wit" / "pyproject.toml").is_file()


def test_an_empty_folder_is_used(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("new-axis", "wit", "-o", ".").code == 0
    assert (tmp_path / "here" / "README.md").is_file()


def test_what_is_written_needs_no_formatting(run, tmp_path: Path) -> None:
    wit = tmp_path / "wit"
    run("new-axis", "wit", "-o", wit)
    for check in (["check", "--select", "E,F,I,B,UP,SIM,RUF,N,PT"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", "--line-length", "100"]
        result = subprocess.run(
            [*command, "."], cwd=wit, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout


def test_the_sample_rows_are_in_words_that_the_bundled_model_knows(run, tmp_path: Path) -> None:
    from prefreg.checkpoints import resolve_base
    from prefreg.models.loading import load_tokenizer

    run("new-axis", "wit", "-o", "wit")
    tokenizer = load_tokenizer(resolve_base("pocket"))
    rows = [
        json.loads(line)
        for line in (tmp_path / "wit/src/prefreg_axis_wit/sample.jsonl").read_text().splitlines()
    ]
    assert len(rows) > 30
    for row in rows:
        for column in ("prompt", "response_0", "response_1"):
            assert tokenizer.unk_token_id not in tokenizer(row[column])["input_ids"], row


NO_NAMES = ["Wit", "9lives", "_wit", "wit-", "wit_", "dry wit", "./wit", "a/b", "wit.py", "ä", ""]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_cannot_name_an_axis_is_wrong_usage(run, tmp_path: Path, name: str) -> None:
    found = run("new-axis", name)
    assert (found.code, found.out) == (2, "")
    assert f"{name!r} cannot name an axis" in found.err
    assert ("--output" in found.err) == ("/" in name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["helpful", "verbose"])
def test_a_name_or_alias_that_is_installed_is_taken(run, tmp_path: Path, name: str) -> None:
    found = run("new-axis", name)
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith(f"Error: The name {name!r} is taken by the axis ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_keeps_it(run, tmp_path: Path) -> None:
    (tmp_path / "prefreg-axis-wit").mkdir()
    (tmp_path / "prefreg-axis-wit" / "thesis.txt").write_text("the only copy")
    found = run("new-axis", "wit")
    assert (found.code, found.out) == (1, "")
    assert found.err == (
        "Error: prefreg-axis-wit is not empty: choose another folder with --output.\n"
    )
    assert texts(tmp_path) == {"prefreg-axis-wit/thesis.txt": "the only copy"}


def test_a_file_in_the_place_of_the_folder_is_kept(run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for place in ("taken", "taken/below"):
        found = run("new-axis", "wit", "-o", place)
        assert (found.code, found.out) == (1, "")
        assert found.err.startswith(f"Error: {place} ")
        assert found.err.count("\n") == 1
    assert texts(tmp_path) == {"taken": "a file"}


def test_a_place_that_cannot_be_written_is_named(run) -> None:
    found = run("new-axis", "wit", "-o", "/proc/wit")
    assert found.code == 1
    assert found.err.startswith("Error: /proc/wit cannot be written: ")


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    # A path component of more than 255 bytes is refused by the file system: the module's folder.
    name = "a" + "b" * 250
    for place in ("here", "there"):
        with pytest.raises(OutputError, match="cannot be written"):
            write_package(name, tmp_path / place, AxisCatalog([]))
    assert texts(tmp_path) == {}
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_third_party_owner_of_a_name_is_named(tmp_path: Path) -> None:
    axis = Axis("wit", "A test.", {"rows": lambda request: []}, PreferencePair.from_row)
    catalog = AxisCatalog([Plugin("wit", "prefreg-axis-wit", "2.5", (axis,))])
    with pytest.raises(Exception, match=r"the axis 'wit' of prefreg-axis-wit 2\.5: choose another"):
        write_package("wit", tmp_path / "new", catalog)
