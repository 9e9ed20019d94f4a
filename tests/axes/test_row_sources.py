"""Files of rows, data sets of the hub, licences, and streams that are mixed."""

import contextlib
import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefreg import Axis, DataError, LicensedSource
from prefreg.axes import row_sources
from prefreg.axes.axis import Message, PreferencePair, SourceRequest
from prefreg.axes.row_sources import (
    check_source_licence,
    forbids_commercial_use,
    read_preference_file,
    read_rows,
    stream_hub_rows,
)
from prefreg.data.instructions import read_instructions
from prefreg.data.pairs import build_pairs
from prefreg.evaluation.knowledge import read_questions
from prefreg.evaluation.prompts import read_prompts

ROW = {
    "prompt": [{"role": "user", "content": "Hi?"}],
    "chosen": [{"role": "assistant", "content": "Hello."}],
    "rejected": [{"role": "assistant", "content": "No."}],
    "score": 3,
}
PAIR = PreferencePair.from_texts(prompt="Hi?", chosen="Hello.", rejected="No.")


def lines(path: Path, *texts: str | bytes) -> Path:
    path.write_bytes(b"\n".join(t if isinstance(t, bytes) else t.encode() for t in texts))
    return path


def test_rows_come_with_their_line_numbers(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", json.dumps(ROW), json.dumps({**ROW, "group": 7}))
    (first, pair), (second, grouped) = read_preference_file(path)
    assert (first, second) == (1, 2)
    assert pair == PAIR
    assert grouped.group == "7"


def test_a_compressed_file_reads_as_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert [pair for _, pair in read_preference_file(path)] == [PAIR]


def test_string_answers_to_a_dialogue_become_turns_of_the_assistant(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", json.dumps({**ROW, "chosen": "Hello.", "rejected": "No."}))
    [(_, pair)] = read_preference_file(path)
    assert pair.chosen == (Message("assistant", "Hello."),)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json.dumps(ROW).encode())
    assert [pair for _, pair in read_preference_file(path)] == [PAIR]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": ', "broken JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "a JSON list, not an object"),
        ("", "the line is empty"),
        ('{"prompt": "a", "chosen": "b"}', "column 'rejected' is missing"),
        ('{"prompt": "a", "chosen": "b", "rejected": " "}', "column 'rejected' is empty"),
        ('{"prompt": "a", "chosen": "b", "rejected": 3}', "neither a string nor a list"),
        ('{"prompt": "a", "chosen": "b", "rejected": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "\xff"}', "not UTF-8 (byte 13)"),
    ],
)
def test_a_bad_line_is_named_and_not_skipped(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    path = lines(tmp_path / "a.jsonl", json.dumps(ROW), line, json.dumps(ROW))
    with pytest.raises(DataError) as caught:
        list(read_preference_file(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl.gz", b"{}", "is not a gzip file"),
        ("a.jsonl.gz", gzip.compress(b"x" * 9999, mtime=0)[:30], "is a damaged gzip file"),
        ("a.jsonl.zst", b"{}", "cannot be read: ZSTD decompress failed"),
        ("a.parquet", b"prompt", "a.parquet is no Parquet file that can be read"),
        ("a.csv", b"prompt", "a.csv is empty: it has no row"),
        ("a.json", b" \n", "the line is empty"),
        ("a.json", b"[]", "is empty: it has no row"),
        ("a.json", b"[1]", "a.json:1: the row is a JSON int, not an object"),
        ("a.json", b"[{}", r"a.json: broken JSON: Expecting ',' delimiter at column 4"),
        ("a.txt", b"prompt", r"a.txt is no file of rows: its name must end in .jsonl, .* or .parq"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(read_preference_file(path))


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no data file .*none\.jsonl"):
        list(read_preference_file(tmp_path / "none.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        list(read_preference_file(tmp_path / "folder.jsonl"))


ROWS = [
    {"prompt": "Hi, who is there?", "chosen": "None", "rejected": "007"},
    {"prompt": 'And, "you"?\nSay!', "chosen": "ä", "rejected": "NA"},
]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_zstandard(rows: list[dict[str, Any]]) -> bytes:
    return bytes(pyarrow.Codec("zstd").compress(as_lines(rows), asbytes=True))


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.ndjson": as_lines,
    "ROWS.JSONL": as_lines,
    "rows.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "rows.jsonl.zst": as_zstandard,
    "rows.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "lines.json": as_lines,
    "rows.csv": as_csv,
    "marked.csv": lambda rows: b"\xef\xbb\xbf" + as_csv(rows),
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[name](ROWS))
    assert [row for _, row in read_rows(tmp_path / name)] == ROWS


@pytest.mark.parametrize("name", ["rows.json", "lines.json", "rows.jsonl.zst", "rows.parquet"])
def test_messages_with_all_their_keys_are_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "a boat"}}}
    rows = [
        {**ROW, "chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}]},
        ROW,
    ]
    (tmp_path / name).write_bytes(KINDS[name](rows))
    found = [pair for _, pair in read_preference_file(tmp_path / name)]
    assert found == [PreferencePair.from_row(row) for row in rows]
    assert found[0].chosen == (Message("assistant", "", {"content": None, "tool_calls": [call]}),)


def test_a_table_of_datasets_keeps_its_values_of_many_kinds(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [
        {**ROW, "chosen": [{"role": "assistant", "content": "x", "tool_calls": [{"to": value}]}]}
        for value in ({"a": 1}, {"b": "c"}, {"b": [2]})
    ]
    Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(tmp_path / "rows.parquet")
    found = [pair for _, pair in read_preference_file(tmp_path / "rows.parquet")]
    assert found == [PreferencePair.from_row(row) for row in rows]


def test_rows_of_a_table_are_counted_by_line_where_it_has_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv([*ROWS, ROWS[0] | {"chosen": " "}]))
    with pytest.raises(DataError, match=r"a\.csv:5: column 'chosen' is empty"):
        list(read_preference_file(tmp_path / "a.csv"))
    (tmp_path / "a.parquet").write_bytes(as_parquet([*ROWS, ROWS[0] | {"chosen": " "}]))
    with pytest.raises(DataError, match=r"a\.parquet:3: column 'chosen' is empty"):
        list(read_preference_file(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"prompt,chosen\na,b,c\n", "a.csv:2: 3 cells, where 2 columns have names"),
        (b"a,a\nb,c\n", "a.csv:1: two columns of one name"),
        (b'a,b\nc,"d\n', "a.csv:2: broken CSV: unexpected end of data"),
        (b"a,b\nc,\xff\n", "a.csv:2: the file is not UTF-8"),
        (b"prompt,chosen,rejected\nq,,b\n", "a.csv:2: column 'chosen' is neither a string nor"),
        (
            b"prompt,chosen,rejected\nq,\"[{'role': 'assistant'}]\",b\n",
            "a.csv:2: column 'chosen' is the text of a list of messages, not the list",
        ),
    ],
)
def test_a_broken_table_is_told_with_its_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(reason)):
        list(read_preference_file(tmp_path / "a.csv"))


BAD_LINES = {
    "a number of many digits": b'{"prompt": ' + b"1" * 5000 + b"}",
    "a negative one": b'{"group": -' + b"9" * 4301 + b"}",
    "deep lists": b'{"prompt": ' + b"[" * 100_000,
    "deep objects": b'{"a":' * 5000,
    "lists within the limit of Python": b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
    "half a pair": b'{"prompt": "q", "chosen": "a", "rejected": "b", "other": ["\\uD800"]}',
    "half a pair in a name": b'{"\\udc00": 1}',
    "not a number": b'{"prompt": NaN, "chosen": "a", "rejected": "b"}',
    "an infinite group": b'{"prompt": "q", "chosen": "a", "rejected": "b", "group": Infinity}',
    "an unnamed group": b'{"prompt": "q", "chosen": "a", "rejected": "b", "group": NaN}',
    "no number in a call": b'{"prompt": "q", "chosen": [{"role": "a", "content": "a", "x": NaN}], '
    b'"rejected": [{"role": "a", "content": "b"}]}',
    "nested keys": b'{"prompt": "q", "chosen": [{"role": "a", "content": "a", "x": '
    + b"[" * 150
    + b"]" * 150
    + b'}], "rejected": [{"role": "a", "content": "b"}]}',
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_what_no_reader_can_hold_is_told_with_its_line(tmp_path: Path, line: bytes) -> None:
    path = lines(tmp_path / "a.jsonl", json.dumps(ROW), line)
    with pytest.raises(DataError) as caught:
        list(read_preference_file(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


COLUMNS = (
    *("prompt", "chosen", "rejected", "group", "tools", "chat_template_kwargs", "images"),
    *("messages", "instruction", "input", "output", "completion"),
    *("question", "choices", "answer_index", "kind", "source"),
)
ROLES = st.sampled_from(["user", "assistant", "tool", "system", 1, None])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["q", " ", "what is it?", "[{'role': 1}]", "[]", '[{"a": 1}]', "{}", 10**400]),
)
TURNS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": ROLES, "content": SCALARS}),
        st.fixed_dictionaries(
            {"from": ROLES, "value": SCALARS}, optional={"tool_calls": SCALARS, "role": ROLES}
        ),
    ),
    max_size=3,
)
VALUES = st.recursive(
    st.one_of(SCALARS, TURNS),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.text(max_size=3), below, max_size=3)
    ),
    max_leaves=8,
)
ANY_LINE = st.one_of(
    st.binary(max_size=30),
    st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6).map(json.dumps).map(str.encode),
    st.fixed_dictionaries(
        {"prompt": st.one_of(SCALARS, TURNS), "chosen": VALUES, "rejected": VALUES}
    )
    .map(json.dumps)
    .map(str.encode),
    st.sampled_from([*BAD_LINES.values()]),
)


def read_pairs(path: Path) -> object:
    found = (pair for _, pair in read_preference_file(path))
    return build_pairs(found, axis_name="a", seed=0)


@given(content=st.lists(ANY_LINE, min_size=1, max_size=3), ending=st.sampled_from([*KINDS]))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_reader_reads_or_says_what_is_wrong(
    tmp_path: Path, content: list[bytes], ending: str
) -> None:
    path = tmp_path / ending
    path.write_bytes(gzip.compress(b"\n".join(content)) if ".gz" in ending else b"\n".join(content))
    for read in (read_pairs, read_prompts, read_questions, read_instructions):
        with contextlib.suppress(DataError):
            read(path)


PAGE = "https://huggingface.co/datasets/org/set"


def response(status: int) -> Any:
    """Stand in for the response of the Hub's client, whose library differs by version."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError("no", response=response(403)), f"accept its licence at {PAGE}"),
        (HfHubHTTPError("no", response=response(401)), f"accept its licence at {PAGE}"),
        (RepositoryNotFoundError("no", response=response(401)), "There is no data set org/set"),
        (RevisionNotFoundError("no", response=response(404)), "has no revision 'v9'"),
        (OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("refused"), "cannot be reached (ConnectionError: refused)"),
        (ValueError("Bad split: x"), "cannot be read: ValueError: Bad split: x"),
    ],
)
def test_each_failure_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    with pytest.raises(DataError) as caught:
        stream_hub_rows("org/set", request=SourceRequest(revision="v9"))
    assert words in str(caught.value)


def test_offline_is_an_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set.*`data=` FILE"):
        stream_hub_rows("org/set", request=SourceRequest())


def test_the_limit_and_the_columns_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"question": "c"}]
    about = SimpleNamespace(sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: about)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)

    def read(limit: int | None) -> list[Any]:
        request = SourceRequest(limit=limit)
        return list(stream_hub_rows("org/set", request=request, columns=("prompt",)).rows)

    assert len(read(2)) == 2
    with pytest.raises(DataError, match=r"has no column 'prompt' \(found: question\)"):
        read(None)


def licensed(licence: str | None = None) -> Axis:
    return Axis(
        name="kind",
        summary="",
        sources={
            "hub": LicensedSource(lambda request: [], "org/set", "CC-BY-NC-4.0"),
            "open": LicensedSource(lambda request: [], "org/open", "MIT"),
            "plain": lambda request: [],
        },
        label=PreferencePair.from_row,
        licence=licence,
    )


@pytest.mark.parametrize(
    "licence",
    ["CC-BY-NC-4.0", "cc-by-nc-sa-3.0", "PolyForm-Noncommercial-1.0.0", "research, non-commercial"],
)
def test_a_licence_that_forbids_commercial_use_is_known(licence: str) -> None:
    assert forbids_commercial_use(licence)


@pytest.mark.parametrize("licence", ["MIT", "CC-BY-4.0", "llama3", "Apache-2.0", "NCSA", "CC0-1.0"])
def test_other_licences_need_no_consent(licence: str) -> None:
    assert not forbids_commercial_use(licence)


def test_the_refusal_names_licence_data_set_and_flag() -> None:
    with pytest.raises(DataError) as caught:
        check_source_licence(licensed(), "hub", accepted=False)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("CC-BY-NC-4.0", "org/set", "`accept_licence=`"):
        assert word in message


def test_what_is_accepted_is_shown_all_the_same() -> None:
    shown = check_source_licence(licensed(), "hub", accepted=True)
    assert shown is not None
    assert "org/set is under CC-BY-NC-4.0" in shown
    assert "accepted" in shown


def test_a_source_without_a_licence_of_its_own_has_the_axis_licence() -> None:
    with pytest.raises(DataError, match="source 'plain' is under CC-BY-NC-SA-4"):
        check_source_licence(licensed("CC-BY-NC-SA-4.0"), "plain", accepted=False)
    assert check_source_licence(licensed("CC-BY-NC-SA-4.0"), "open", accepted=False) is None
    assert check_source_licence(licensed(), "plain", accepted=False) is None


def test_an_axis_names_each_licence_once() -> None:
    assert licensed().licences == ("CC-BY-NC-4.0", "MIT")
    assert licensed("MIT").licences == ("CC-BY-NC-4.0", "MIT")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv"])
def test_a_line_without_end_is_not_read(tmp_path: Path, name: str) -> None:
    line = b'{"prompt": "q", "chosen": "' + b"a" * (1 << 24) + b'", "rejected": "b"}\n'
    content = gzip.compress(line, 1) if name.endswith(".gz") else line
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}:1: the line has more than 16 MiB, as no row has"):
        list(read_rows(tmp_path / name))


def test_an_array_out_of_measure_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sources, "_LARGEST", 20)
    (tmp_path / "rows.json").write_text(json.dumps([{"prompt": "q"}, {"prompt": "q"}]))
    with pytest.raises(DataError, match=r"rows\.json has more than .* write a row to a line"):
        list(read_rows(tmp_path / "rows.json"))
