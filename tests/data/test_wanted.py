"""What each --data asks for."""

from pathlib import Path

import pytest

from prefreg import Axis, DataError, PreferencePair, UsageError
from prefreg.data.wanted import WantedRows, read_wanted

AXIS = Axis(
    name="kind",
    summary="",
    sources={"hub": lambda request: [], "pocket": lambda request: []},
    label=PreferencePair.from_row,
)


def read(*texts: str, revision: str | None = None) -> list[WantedRows]:
    return list(read_wanted(AXIS, texts, revision))


def test_a_source_may_have_a_revision_and_a_weight() -> None:
    assert read("hub") == [WantedRows("hub", False)]
    assert read("hub@v2") == [WantedRows("hub", False, "v2")]
    assert read("hub@v2:0.7", "pocket:3e-1") == [
        WantedRows("hub", False, "v2", 0.7),
        WantedRows("pocket", False, None, 0.3),
    ]


def test_a_file_may_have_a_weight(tmp_path: Path) -> None:
    for name in ("mine.jsonl", "odd:0.5", "mine@v2.jsonl"):
        (tmp_path / name).write_text("")
    mine, odd, at = (tmp_path / name for name in ("mine.jsonl", "odd:0.5", "mine@v2.jsonl"))
    assert read(str(mine)) == [WantedRows(str(mine), True)]
    assert read(f"{mine}:2") == [WantedRows(str(mine), True, None, 2.0)]
    assert read(str(at)) == [WantedRows(str(at), True)]
    # A file of just that name wins.
    assert read(str(odd)) == [WantedRows(str(odd), True)]
    assert read(f"{odd}:2") == [WantedRows(str(odd), True, None, 2.0)]


def test_the_option_pins_a_single_source() -> None:
    assert read("hub", revision="v2") == [WantedRows("hub", False, "v2")]
    assert read("hub:2", revision="v2") == [WantedRows("hub", False, "v2", 2.0)]


@pytest.mark.parametrize(
    ("texts", "revision", "words"),
    [
        (["hub:0", "pocket:1"], None, r"The weight in 'hub:0' is no positive number"),
        (["hub:-1"], None, "no positive number"),
        (["hub:inf"], None, "no positive number"),
        (["hub:nan"], None, "no positive number"),
        (["hub:much"], None, "no positive number"),
        (["hub:0.5", "pocket"], None, "Give every --data a weight, as in NAME:0.7, or none"),
        (["hub", "hub@v2"], None, "names 'hub' twice"),
        (["hub@"], None, "'hub@' pins no revision"),
        (["hub", "pocket"], "v2", "of several, pin each: --data NAME@REVISION"),
        (["hub@v1"], "v2", "pin the same source"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    texts: list[str], revision: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(*texts, revision=revision)


@pytest.mark.parametrize("text", ["nowhere", "nowhere:0.5", "nowhere@v2", ":0.5", "hubb"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"is neither a source of .* \(hub, pocket\) nor a file"):
        read(text)
