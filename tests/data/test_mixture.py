"""Where the rows of a run come from: what --data asks for, and how sources are mixed."""

import json
from dataclasses import replace
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg import (
    Axis,
    DataError,
    LicensedSource,
    PreferencePair,
    SourceRequest,
    SourceRows,
    UsageError,
)
from prefreg.axes.axis import Source
from prefreg.data.mixture import Mixture, WantedRows, interleave, open_rows, read_wanted

ROWS = [{"prompt": str(n), "chosen": "a", "rejected": "b"} for n in range(5)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def from_hub(request: SourceRequest) -> SourceRows:
    return SourceRows(ROWS, "org/data", request.revision or COMMIT)


AXIS = Axis(
    name="kindness",
    summary="",
    sources={"hub": from_hub, "pocket": lambda request: iter(ROWS)},
    label=lambda row: None if row["prompt"] == "1" else PreferencePair.from_row(row),
)


def rows(
    data: str | list[str] | None, *, base: str = "llama", limit: int | None = None, **more
) -> Mixture:
    return open_rows(
        AXIS, data=data, base=base, limit=limit, **{"revision": None, "seed": 0, **more}
    )


def prompts(mixture: Mixture) -> list[object]:
    return [pair and pair.prompt for pair in mixture.pairs]


def test_the_first_source_is_the_default_on_a_base_of_ones_own() -> None:
    found = rows(None)
    assert (found.source, found.origin, found.revision) == ("hub", "org/data", COMMIT)


def test_the_bundled_world_is_the_default_on_the_bundled_model() -> None:
    found = rows(None, base="pocket")
    assert (found.source, found.origin, found.revision) == ("pocket", "pocket", None)


def test_a_revision_is_pinned() -> None:
    assert rows("hub", revision="v2").revision == "v2"


def test_a_limit_counts_rows_and_ties_stay_for_the_audit() -> None:
    assert prompts(rows("hub", limit=3)) == ["0", None, "2"]
    assert prompts(rows("pocket")) == ["0", None, "2", "3", "4"]


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = rows(str(file), limit=2)
    assert (found.source, found.origin, found.revision) == ("file", "mine.jsonl", None)
    assert prompts(found) == ["0", "1"]


def test_a_file_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(UsageError, match="pins a source on a hub"):
        rows(str(tmp_path / "mine.jsonl"), revision="v2")


def test_anything_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"'nowhere' is neither a source .* \(hub, pocket\)"):
        rows("nowhere")


def test_a_source_without_revisions_cannot_be_pinned() -> None:
    with pytest.raises(UsageError, match="Source 'pocket' of axis 'kindness' has no revisions"):
        rows("pocket", revision="v2")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = [{"prompt": f"file {n}", "chosen": "a", "rejected": "b"} for n in range(3)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_sources_and_files_are_mixed_by_weight_and_the_shares_recorded(file: Path) -> None:
    found = rows(["hub@v2:2", f"{file}:1"])
    assert (found.source, found.origin) == ("hub + file", "org/data + mine.jsonl")
    assert found.revision is None
    assert prompts(found) == ["0", "file 0", None, "2", "file 1", "3", "4", "file 2"]
    hub, mine = found.describe_parts()
    assert (hub["revision"], hub["weight"], hub["rows"], hub["ties"]) == ("v2", 2.0, 5, 1)
    assert (mine["revision"], mine["weight"], mine["rows"], mine["ties"]) == (None, 1.0, 3, 0)
    assert hub["share"] == 5 / 8
    assert [hub["ended"], mine["ended"]] == [True, False]
    assert (found.early_end or "").startswith("Source 'hub' ended after 5 rows")


def test_without_weights_all_is_read(file: Path) -> None:
    found = rows(["hub", str(file)])
    assert len(prompts(found)) == 8
    assert [part["ended"] for part in found.describe_parts()] == [True, True]
    assert [part["weight"] for part in found.describe_parts()] == [None, None]
    assert found.early_end is None


def test_a_limit_counts_the_rows_of_all_sources(file: Path) -> None:
    found = rows(["hub:1", f"{file}:1"], limit=4)
    assert len(prompts(found)) == 4
    assert [part["rows"] for part in found.describe_parts()] == [2, 2]


def test_an_axis_may_say_what_is_read_by_default() -> None:
    both = replace(AXIS, default_data=("hub:3", "pocket:1"))
    found = open_rows(both, data=None, base="llama", limit=4, revision=None, seed=0)
    assert len(prompts(found)) == 4
    assert [part["rows"] for part in found.describe_parts()] == [3, 1]
    assert open_rows(both, data=None, base="pocket", limit=4, revision=None, seed=0).source == (
        "pocket"
    )


def guarded(read: list[str]) -> Axis:
    """Make an axis that notes which of its sources was opened."""

    def source(name: str) -> Source:
        def load(request: SourceRequest) -> SourceRows:
            read.append(name)
            return SourceRows(ROWS, f"org/{name}", COMMIT)

        return load

    return replace(
        AXIS,
        sources={
            "open": LicensedSource(source("open"), "org/open", "MIT"),
            "closed": LicensedSource(source("closed"), "org/closed", "CC-BY-NC-4.0"),
        },
    )


def open_guarded(axis: Axis, data: list[str] | str, **more: Any) -> Mixture:
    return open_rows(axis, data=data, base="llama", limit=None, revision=None, seed=0, **more)


def test_nothing_is_read_before_a_licence_is_accepted() -> None:
    read: list[str] = []
    with pytest.raises(DataError, match=r"org/closed is under CC-BY-NC-4.0.*`accept_licence=`"):
        open_guarded(guarded(read), ["open", "closed"])
    assert read == []


def test_an_accepted_licence_is_shown_first_and_recorded() -> None:
    events: list[str] = []
    found = open_guarded(
        guarded(events), ["open", "closed"], accept_licence=True, note=events.append
    )
    assert events == [
        "kindness: org/closed is under CC-BY-NC-4.0, which forbids commercial use (accepted).",
        "open",
        "closed",
    ]
    free, closed = found.describe_parts()
    assert (free["licence"], free["licence_accepted"]) == ("MIT", False)
    assert (closed["licence"], closed["licence_accepted"]) == ("CC-BY-NC-4.0", True)
    assert closed["revision"] == COMMIT


def test_a_file_of_ones_own_is_under_no_licence(file: Path) -> None:
    found = open_guarded(guarded([]), str(file))
    (part,) = found.describe_parts()
    assert (part["licence"], part["licence_accepted"]) == (None, False)


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
        (["hub:0.5", "pocket"], None, "Give every `data=` a weight, as in NAME:0.7, or none"),
        (["hub", "hub@v2"], None, "names 'hub' twice"),
        (["hub@"], None, "'hub@' pins no revision"),
        (["hub", "pocket"], "v2", "of several, pin each: `data=` NAME@REVISION"),
        (["hub@v1"], "v2", "pin the same source"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    texts: list[str], revision: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(*texts, revision=revision)


@pytest.mark.parametrize("text", ["nowhere", "nowhere:0.5", "nowhere@v2", ":0.5", "hubb"])
def test_a_text_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"is neither a source of .* \(hub, pocket\) nor a file"):
        read(text)


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
