"""Where the rows of a run come from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
from prefreg.data.wanted import Origin, open_rows

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
) -> Origin:
    return open_rows(
        AXIS, data=data, base=base, limit=limit, **{"revision": None, "seed": 0, **more}
    )


def prompts(origin: Origin) -> list[object]:
    return [pair and pair.prompt for pair in origin.pairs]


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
    assert (found.early_end() or "").startswith("Source 'hub' ended after 5 rows")


def test_without_weights_all_is_read(file: Path) -> None:
    found = rows(["hub", str(file)])
    assert len(prompts(found)) == 8
    assert [part["ended"] for part in found.describe_parts()] == [True, True]
    assert [part["weight"] for part in found.describe_parts()] == [None, None]
    assert found.early_end() is None


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


def open_guarded(axis: Axis, data: list[str] | str, **more: Any) -> Origin:
    return open_rows(axis, data=data, base="llama", limit=None, revision=None, seed=0, **more)


def test_nothing_is_read_before_a_licence_is_accepted() -> None:
    read: list[str] = []
    with pytest.raises(DataError, match=r"org/closed is under CC-BY-NC-4.0.*--accept-licence"):
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
