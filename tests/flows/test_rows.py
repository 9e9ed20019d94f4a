"""Where the rows of a run come from."""

import json
from pathlib import Path

import pytest

from prefreg import Axis, DataError, PreferencePair, SourceRequest, SourceRows, UsageError
from prefreg.flows.rows import Origin, open_rows

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


def rows(data: str | None, *, base: str = "llama", limit: int | None = None, **more) -> Origin:
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
