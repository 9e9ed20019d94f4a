import gzip
import json
from pathlib import Path

import pytest

from prefreg.axes.axis import Message, PreferencePair
from prefreg.axes.row_sources import read_preference_file
from prefreg.errors import DataError

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
        ("a.csv", b"prompt", "neither a .jsonl nor a .jsonl.gz"),
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
