"""The record of a version leads back to the pairs that its run held out."""

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
import worded
from prefreg.axes.axis import Axis, PreferencePair
from prefreg.axes.plugins import find_axis
from prefreg.axes.row_sources import axis_of_rows
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.mixture import open_rows
from prefreg.data.pairs import build_pairs
from prefreg.errors import DataError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.prompts import find_pairs
from prefreg.registry import VersionRecord
from prefreg.training.heldout import heldout_pairs

Held = tuple[PreferencePair, ...]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl")


def write(path: Path, *, start: int = 0, count: int = 40) -> Path:
    pairs = worded.pairs(60)[start : start + count]
    path.write_text("".join(json.dumps(pair.to_row()) + "\n" for pair in pairs))
    return path


def made_of(
    axis: Axis, base: BaseModel, data: str | None = None, **metadata: Any
) -> tuple[VersionRecord, Held]:
    """Return a version as a run on these data records it, with the pairs that it held out."""
    mixture = open_rows(axis, data=data, base=base.name, limit=None, revision=None, seed=3)
    found = build_pairs(mixture.pairs, axis_name=axis.name, seed=3)
    metadata |= {
        "data": {"sources": mixture.describe_parts(), "fingerprint": found.fingerprint},
        "training": {"seed": 3},
    }
    return tiny.record(axis.name, base, metadata=metadata), found.heldout


def test_rows_of_a_file_are_read_again_wherever_one_stands(
    rows: Path, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record, held = made_of(axis_of_rows("happy"), base, "rows.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert heldout_pairs(record) == held
    with rows.open("a") as more:  # what the run has not read does not matter
        more.write(json.dumps(worded.pairs(60)[50].to_row()) + "\n")
    assert heldout_pairs(record) == held


def test_rows_that_are_gone_or_others_are_told(rows: Path, base: BaseModel) -> None:
    record, _ = made_of(axis_of_rows("happy"), base, str(rows))
    write(rows, start=5)
    with pytest.raises(DataError, match=r"rows\.jsonl has other pairs now than when the vector"):
        heldout_pairs(record)
    rows.unlink()
    with pytest.raises(DataError, match=r"^its data file /.*/rows\.jsonl is gone$"):
        heldout_pairs(record)


def test_a_yaml_axis_is_known_by_the_text_that_its_version_keeps(
    rows: Path, base: BaseModel, tmp_path: Path
) -> None:
    path = tmp_path / "tone.yaml"
    path.write_text(f"name: tone\nsummary: A test.\nsources:\n- file: {rows.name}\n")
    found = find_axis(str(path))
    assert found.declaration is not None
    declaration = found.declaration.to_json()
    record, held = made_of(found.installed.axis, base, declaration=declaration)
    path.write_text("name: another")
    assert heldout_pairs(record) == held
    rows.unlink()
    with pytest.raises(DataError, match=r"cannot be read again: .*tone\.yaml:4: there is no file"):
        heldout_pairs(record)


def test_what_needs_an_axis_that_is_not_installed_says_so(rows: Path, base: BaseModel) -> None:
    record, _ = made_of(axis_of_rows("happy"), base, str(rows))
    record.metadata["data"]["sources"][0]["source"] = "hub"
    with pytest.raises(DataError, match="cannot be read again: No axis 'happy' is installed"):
        heldout_pairs(record)


def test_an_installed_axis_on_a_file_is_not_measured_on_the_rows_of_the_world(
    rows: Path, base: BaseModel
) -> None:
    axis = find_axis("verbosity").installed.axis
    record, held = made_of(axis, base, str(rows))
    found = find_pairs(axis, record, "pocket", EvaluationRequest())
    assert (found.pairs, found.source) == (held, "held out of verbosity@1")
