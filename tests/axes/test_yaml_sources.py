"""How the sources of YAML axes read their rows."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from prefreg import Axis, DataError, SourceRequest, SourceRows, axis_from_yaml

ROWS = [
    {"question": f"q{n}", "good": f"g{n}", "bad": f"b{n}", "lang": "en" if n % 2 else "de"}
    for n in range(6)
]
HEAD = """\
name: tone
summary: s
columns: {prompt: question, chosen: good, rejected: bad}
sources:
"""


def read(axis: Axis, source: str, **asked: Any) -> SourceRows:
    found = axis.sources[source](SourceRequest(**asked))
    assert isinstance(found, SourceRows)
    return SourceRows(list(found.rows), found.origin, found.revision)


def declare(folder: Path, sources: str) -> Axis:
    (folder / "tone.yaml").write_text(HEAD + sources)
    return axis_from_yaml(folder / "tone.yaml")


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "deep" / "rows.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)))
    return tmp_path


@pytest.mark.parametrize("file", ["rows.jsonl", "deep/rows.jsonl.gz"])
def test_a_file_is_found_beside_the_yaml(folder: Path, file: str) -> None:
    found = read(declare(folder, f"- file: {file}\n"), "rows", limit=2)
    assert (found.origin, found.revision) == (Path(file).name, None)
    assert found.rows == [
        {
            "prompt": f"q{n}",
            "chosen": f"g{n}",
            "rejected": f"b{n}",
            "place": f"{found.origin}:{n + 1}",
        }
        for n in range(2)
    ]


def test_only_rows_that_fit_count(folder: Path) -> None:
    axis = declare(folder, "- {file: rows.jsonl, where: {lang: en, question: [q1, q5, q4]}}\n")
    assert [row["place"] for row in read(axis, "rows").rows] == ["rows.jsonl:2", "rows.jsonl:6"]
    assert len(read(axis, "rows", limit=1).rows) == 1


def test_a_source_has_its_own_columns_over_those_at_the_top(folder: Path) -> None:
    axis = declare(
        folder, "- {file: rows.jsonl, columns: {chosen: bad, rejected: good, group: lang}}\n"
    )
    assert read(axis, "rows").rows[0] == {
        "prompt": "q0",
        "chosen": "b0",
        "rejected": "g0",
        "group": "de",
        "place": "rows.jsonl:1",
    }


def test_a_missing_column_is_told_with_file_and_line(folder: Path) -> None:
    rows = [*ROWS[:2], {"question": "q", "worse": "b", "good": "g"}]
    (folder / "rows.jsonl").write_bytes(lines(rows))
    axis = declare(folder, "- file: rows.jsonl\n")
    with pytest.raises(
        DataError, match=r"^rows.jsonl:3: column 'bad' is missing \(found: question, worse, good\)"
    ):
        read(axis, "rows")


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Serve rows.jsonl as the data set org/set and return what was asked of the hub."""
    asked: list[Any] = []
    real = datasets.load_dataset

    def info(_: Any, name: str, revision: str | None = None) -> Any:
        asked.append((name, revision))
        return SimpleNamespace(sha="c0ffee")

    def load(name: str, config: str | None, *, split: str, revision: str, streaming: bool) -> Any:
        asked.append((name, config, split, revision, streaming))
        files = {split: str(folder / "rows.jsonl")}
        return real("json", data_files=files, split=split, streaming=streaming)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_data_set_is_streamed_at_the_revision_of_the_file(folder: Path, hub: list[Any]) -> None:
    axis = declare(folder, "- {hub: org/set, config: en, split: test, revision: v1}\n")
    found = read(axis, "set", limit=3)
    assert hub == [("org/set", "v1"), ("org/set", "en", "test", "c0ffee", True)]
    assert (found.origin, found.revision) == ("hf:org/set", "c0ffee")
    assert [row["place"] for row in found.rows] == [f"org/set, row {n}" for n in (1, 2, 3)]


def test_a_revision_that_is_asked_for_wins(folder: Path, hub: list[Any]) -> None:
    read(declare(folder, "- {hub: org/set, revision: v1}\n"), "set", revision="v2")
    assert hub[0] == ("org/set", "v2")


def test_a_limit_counts_the_rows_that_fit(folder: Path, hub: list[Any]) -> None:
    axis = declare(folder, "- {hub: org/set, where: {lang: en}}\n")
    assert [row["prompt"] for row in read(axis, "set", limit=2).rows] == ["q1", "q3"]


def test_a_data_set_without_a_column_is_named(folder: Path, hub: list[Any]) -> None:
    axis = declare(folder, "- {hub: org/set, columns: {chosen: better}}\n")
    with pytest.raises(DataError, match=r"^org/set, row 1: column 'better' is missing"):
        read(axis, "set")


def test_tables_and_optional_columns_are_read(folder: Path) -> None:
    (folder / "rows.csv").write_text("lang,score,good,bad\nen,5,q? a,q? b\nde,4,q? c,q? d\n")
    text = HEAD.replace("prompt: question, ", "").replace(
        "sources:", "where: {score: [5]}\nsources:"
    )
    (folder / "tone.yaml").write_text(text + "- file: rows.csv\n")
    axis = axis_from_yaml(folder / "tone.yaml")
    assert read(axis, "rows").rows == [
        {"chosen": "q? a", "rejected": "q? b", "place": "rows.csv:2"}
    ]
    pair = axis.label(read(axis, "rows").rows[0])  # type: ignore[index]
    assert pair is not None
    assert (pair.prompt, pair.chosen, pair.prompt_from) == ("q?", " a", "beginning")


def test_what_may_be_the_prompt_is_not_passed_over(folder: Path) -> None:
    text = HEAD.replace("prompt: question, ", "")
    (folder / "tone.yaml").write_text(text + "- file: rows.jsonl\n")
    axis = axis_from_yaml(folder / "tone.yaml")
    with pytest.raises(DataError, match="'prompt' is missing; if 'question' is meant, give it"):
        axis.label(read(axis, "rows").rows[0])  # type: ignore[index]


def test_tools_and_options_may_have_columns_of_other_names(folder: Path) -> None:
    rows = [{**ROWS[0], "functions": [{"name": "look"}], "chat_template_kwargs": {"a": 1}}]
    (folder / "rows.jsonl").write_bytes(lines(rows))
    axis = declare(folder, "- {file: rows.jsonl, columns: {tools: functions}}\n")
    [row] = read(axis, "rows").rows
    assert (row["tools"], row["chat_template_kwargs"]) == ([{"name": "look"}], {"a": 1})
