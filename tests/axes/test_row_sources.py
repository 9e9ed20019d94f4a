"""Files of JSON lines, data sets of the hub, licences, and streams that are mixed."""

import gzip
import json
from itertools import count, islice, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given
from hypothesis import strategies as st

from prefreg import Axis, DataError, LicensedSource
from prefreg.axes.axis import Message, PreferencePair, SourceRequest
from prefreg.axes.row_sources import (
    check_licence,
    forbids_commercial_use,
    read_preference_file,
    stream_hub_rows,
)
from prefreg.data.mixture import interleave

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
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set.*--data FILE"):
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
        check_licence(licensed(), "hub", accepted=False)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("CC-BY-NC-4.0", "org/set", "--accept-licence"):
        assert word in message


def test_what_is_accepted_is_shown_all_the_same() -> None:
    shown = check_licence(licensed(), "hub", accepted=True)
    assert shown is not None
    assert "org/set is under CC-BY-NC-4.0" in shown
    assert "accepted" in shown


def test_a_source_without_a_licence_of_its_own_has_the_axis_licence() -> None:
    with pytest.raises(DataError, match="source 'plain' is under CC-BY-NC-SA-4"):
        check_licence(licensed("CC-BY-NC-SA-4.0"), "plain", accepted=False)
    assert check_licence(licensed("CC-BY-NC-SA-4.0"), "open", accepted=False) is None
    assert check_licence(licensed(), "plain", accepted=False) is None


def test_an_axis_names_each_licence_once() -> None:
    assert licensed().licences == ("CC-BY-NC-4.0", "MIT")
    assert licensed("MIT").licences == ("CC-BY-NC-4.0", "MIT")


def test_shares_hold_from_the_first_item_on() -> None:
    mixed = interleave([repeat("a"), repeat("b")], [3, 1])
    assert "".join(islice(mixed, 8)) in {"aabaaaba", "aaabaaab", "abaaabaa"}


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(1, 200))
def test_every_share_is_kept_to_within_one_item(weights: list[float], size: int) -> None:
    streams = [repeat(number) for number in range(len(weights))]
    mixed = list(islice(interleave(streams, weights), size))
    for number, weight in enumerate(weights):
        # Two streams differ by less than one; more can lag by one for each other stream.
        wanted = weight / sum(weights) * size
        assert abs(mixed.count(number) - wanted) < max(1.0, len(weights) - 1)


def test_with_weights_all_ends_where_the_first_stream_does() -> None:
    mixed = list(interleave([iter("aaa"), repeat("b")], [1, 1]))
    assert mixed.count("a") == 3
    assert mixed.count("b") in (3, 4)


def test_without_weights_every_stream_is_read_to_its_end() -> None:
    mixed = "".join(interleave([iter("aa"), iter("bbbbb"), iter("c")], None))
    assert sorted(mixed) == sorted("aabbbbbc")
    assert set(mixed[:3]) == {"a", "b", "c"}


def test_a_single_stream_keeps_its_order() -> None:
    assert list(islice(interleave([count()], [0.2]), 4)) == [0, 1, 2, 3]
    assert list(interleave([iter("abc")], None)) == ["a", "b", "c"]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0]])
def test_the_order_is_the_same_each_time(weights: list[float] | None) -> None:
    def once() -> list[str]:
        return list(interleave([iter("abcdef"), iter("xyz")], weights))

    assert once() == once()
