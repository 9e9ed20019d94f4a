"""Records that travel: what they leave out, and strangers' ones, which are read strictly."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import tiny
from prefreg.errors import VectorError
from prefreg.registry import Measurement, VersionRecord
from prefreg.sharing.record_file import read_record, record_file


@pytest.fixture
def record(tmp_path: Path) -> VersionRecord:
    base = tiny.in_base(lambda: tiny.llama(tied=True), tmp_path / "home" / "my-base")
    made = tiny.record(
        "helpful",
        base,
        number=3,
        size=7,
        axis_aliases=("help",),
        aliases=("stable",),
        note="ünïcode",
        tags=("good",),
        measurements=(Measurement("score", {"value": 1.5}, "p", datetime(2026, 2, 1, tzinfo=UTC)),),
        metadata={"data": {"sources": [{"source": "file", "path": f"{tmp_path}/rows.jsonl"}]}},
    )
    return replace(made, base=replace(made.base, name=str(base.path)))


def test_a_record_comes_back_without_the_folders_of_the_machine(record: VersionRecord) -> None:
    data = record_file(record)
    assert str(Path.cwd()).encode() not in data
    found = read_record(data, "it")
    assert found == replace(
        record,
        aliases=(),
        base=replace(record.base, name="my-base", path=None),
        metadata={"data": {"sources": [{"source": "file", "path": "rows.jsonl"}]}},
    )
    assert record_file(found) == data


def measured(kind: str, value: Any) -> dict[str, Any]:
    return {"kind": kind, "value": value, "protocol": "p", "created": "2026-01-01"}


def change(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        *path, last = name.split(".")
        for part in path:
            content = content[part]
        content[last] = value

    return apply


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prefreg", "other", "it is no record of a vector of prefreg."),
        ("format", 2, "it is of format 2, and this prefreg knows formats up to 1. Upgrade"),
        ("axis", "../x", "a name of its axis is none"),
        ("axis_aliases", ["A B"], "a name of its axis is none"),
        ("axis_aliases", "help", "'axis_aliases' is of another kind"),
        ("version", 0, "'version' is out of measure"),
        ("version", True, "'version' is out of measure"),
        ("version", 2**70, "'version' is out of measure"),
        ("kind", "pickle", "'kind' is 'pickle', which is not known"),
        ("kind", ["dense"], "'kind' is ['dense'], which is not known"),
        ("dtype", "F64", "'dtype' is 'F64'"),
        ("sha256", "Z" * 64, "'sha256' is no sha256"),
        ("base", [], "list indices must be integers"),
        ("base.weights", "0", "'weights' is no sha256"),
        ("base.parameters", 1.5, "'parameters' is out of measure"),
        ("created", "yesterday", "Invalid isoformat"),
        ("tags", ["two words"], "'two words' is no tag"),
        ("tags", [1], "expected string"),
        ("metadata", [], "'metadata' is of another kind"),
        ("measurements", [{}], "it has no 'kind'"),
        ("metadata.geometry", {"norm": "long"}, "'metadata.geometry.norm' is of another kind"),
        ("metadata.geometry", 1, "'metadata.geometry' is of another kind"),
        ("metadata.data.sources", [{"source": 1}], "'metadata.data.sources.0.source' is of"),
        (
            "metadata.poles",
            {"positive": {"report": {"accuracy": ""}}},
            "'metadata.poles.positive.report.acc",
        ),
        ("measurements", [measured("range", {"low": -1})], "it has no 'high'"),
        ("measurements", [measured("range", 7)], "'range' is of another kind"),
        ("measurements", [measured("evaluation", {"eta": 1, "figures": {"kl": {}}})], "no 'value'"),
        ("measurements", [1], "not subscriptable"),
        ("note", "\ud800", "it is no record of a vector"),
    ],
)
def test_what_is_no_record_is_refused_by_name(
    record: VersionRecord, name: str, value: Any, said: str
) -> None:
    content = json.loads(record_file(record))
    change(name, value)(content)
    with pytest.raises(VectorError) as refused:
        read_record(json.dumps(content).encode(), "it")
    assert said in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[1]", b"{" * 100_000, b'{"a":' * 5_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(VectorError, match="it is no record of a vector of prefreg"):
        read_record(data, "it")


def test_a_record_without_a_field_names_it(record: VersionRecord) -> None:
    content = json.loads(record_file(record))
    del content["size"]
    with pytest.raises(VectorError, match="it is damaged: it has no 'size'"):
        read_record(json.dumps(content).encode(), "it")


def test_numbers_that_json_does_not_have_become_null(record: VersionRecord) -> None:
    content = json.loads(record_file(record)) | {"metadata": {"norm": float("nan")}}
    assert read_record(json.dumps(content).encode(), "it").metadata == {"norm": None}
