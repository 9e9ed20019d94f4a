import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefreg.errors import RegistryError, UsageError, VectorError
from prefreg.registry import Access, BaseIdentity, NewVersion, Store, VersionRecord

Add = Callable[..., VersionRecord]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_version_comes_back_as_it_was_added(
    path: Path, add: Add, base: Callable[..., BaseIdentity], tmp_path: Path
) -> None:
    moment = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    identity = base("org/name", revision="abc", path="/models/name")
    with Store.open(path, write=True, clock=lambda: moment) as store:
        added = add(
            store,
            "verbosity",
            b"bytes",
            base=identity,
            aliases=("verbose", "long"),
            metadata={"seed": 7, "loss": [0.5, 1.0]},
            note="φ, first try",
        )
    with Store.open(path, write=False) as store:
        (read,) = store.versions()
    assert read == added
    assert (read.axis, read.number, read.axis_aliases) == ("verbosity", 1, ("verbose", "long"))
    assert (read.kind, read.dtype, read.size, read.aliases) == ("dense", "F32", 5, ())
    assert read.sha256 == "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    assert (read.note, read.metadata) == ("φ, first try", {"seed": 7, "loss": [0.5, 1.0]})
    assert read.created == moment
    assert read.base.created == moment
    assert (read.base.name, read.base.revision, read.base.path, read.base.weights) == (
        "org/name",
        "abc",
        "/models/name",
        identity.weights,
    )
    assert str(read) == "verbosity@1"
    assert (tmp_path / "input.safetensors").read_bytes() == b"bytes"


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(metadata=st.dictionaries(st.text(), JSON, max_size=4), value=JSON)
def test_any_json_survives(store: Store, add: Add, metadata: dict[str, Any], value: Any) -> None:
    number = add(store, metadata=metadata).number
    store.measure("helpful", number, "score", value, "protocol")
    read = store.resolve("helpful", str(number))
    assert repr(read.metadata) == repr(metadata)  # repr tells 1 from 1.0 and 0.0 from -0.0
    assert repr(read.measurements[0].value) == repr(value)


def test_numbers_count_per_axis_across_bases(
    store: Store, add: Add, base: Callable[..., BaseIdentity]
) -> None:
    numbers = [
        add(store, "helpful", base=base("a")).number,
        add(store, "helpful", base=base("b")).number,
        add(store, "harmless", base=base("a")).number,
        add(store, "helpful", base=base("a")).number,
    ]
    assert numbers == [1, 2, 1, 3]


def test_versions_are_listed_by_axis_number_and_base(
    store: Store, add: Add, base: Callable[..., BaseIdentity]
) -> None:
    for axis, name in (("helpful", "a"), ("harmless", "b"), ("helpful", "b")):
        add(store, axis, base=base(name), aliases=("kind",) if axis == "helpful" else ())
    assert [str(version) for version in store.versions()] == [
        "harmless@1",
        "helpful@1",
        "helpful@2",
    ]
    assert [str(version) for version in store.versions("kind")] == ["helpful@1", "helpful@2"]
    on_b = store.versions(base=base("b").weights)
    assert [str(version) for version in on_b] == ["harmless@1", "helpful@2"]
    assert store.versions("harmless", base("a").weights) == []


def test_many_versions_are_read_as_few_are(
    store: Store, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    for axis in ("helpful", "verbosity", "helpful"):
        add(store, axis, b"v" * 70, aliases=("a", "b") if axis == "verbosity" else (), tags=("t",))
    store.set_alias("helpful", 2, "stable")
    few = store.summaries("helpful"), store.versions("helpful"), store.versions()
    monkeypatch.setattr("prefreg.registry.listing.MANY", 1)  # beyond it, whole tables are read
    assert (store.summaries("helpful"), store.versions("helpful"), store.versions()) == few


def test_a_number_is_never_used_again(store: Store, add: Add) -> None:
    add(store)
    add(store)
    store.remove("helpful", 2)
    store.remove("helpful", 1)
    assert store.versions() == []
    assert add(store).number == 3


@pytest.mark.file
@pytest.mark.parametrize("size", [64, 65], ids=["inline", "external"])
def test_the_bytes_come_back(store: Store, add: Add, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    source = store.vector_source(add(store, data=data))
    assert isinstance(source, bytes if size == 64 else Path)
    assert (source.read_bytes() if isinstance(source, Path) else source) == data
    assert (tmp_path / "registry.vectors").exists() == (size == 65)


@pytest.mark.parametrize("size", [40, 4000], ids=["inline", "external"])
def test_equal_bytes_are_kept_once_and_as_long_as_they_are_needed(
    store: Store, add: Add, size: int, tmp_path: Path
) -> None:
    first, second = add(store, data=b"a" * size), add(store, "harmless", b"a" * size)
    assert first.sha256 == second.sha256
    store.remove("helpful", 1)
    store.gc()
    assert store.verify() == []
    assert store.vector_source(second)
    store.remove("harmless", 1)
    store.gc()
    assert list(tmp_path.glob("registry.vectors/*")) == []
    with pytest.raises(RegistryError, match=r"harmless@1 is no longer in .*: it was removed"):
        store.vector_source(second)


def test_the_same_bytes_may_have_been_added_under_another_limit(path: Path, add: Add) -> None:
    with Store.open(path, write=True, inline_limit=10) as store:
        add(store, data=b"b" * 20)
    with Store.open(path, write=True, inline_limit=30) as store:
        record = add(store, data=b"b" * 20)
        assert isinstance(store.vector_source(record), Path)
        assert store.verify() == []


@pytest.mark.file
def test_adding_the_same_vector_again_repairs_lost_bytes(store: Store, add: Add) -> None:
    record = add(store, data=b"c" * 100)
    source = store.vector_source(record)
    assert isinstance(source, Path)
    source.unlink()
    assert len(store.verify()) == 1
    add(store, data=b"c" * 100)
    assert store.verify() == []
    assert store.vector_source(record) == source


def test_a_missing_input_file_is_told_and_adds_nothing(
    store: Store, tmp_path: Path, base: Callable[..., BaseIdentity]
) -> None:
    new = NewVersion("helpful", (), "dense", "F32", base())
    with pytest.raises(RegistryError, match=r"nowhere cannot be stored .*No such file"):
        store.add(new, tmp_path / "nowhere")
    assert store.versions() == []


def test_text_that_is_no_unicode_is_refused(store: Store, add: Add) -> None:
    with pytest.raises(RegistryError, match="not valid Unicode"):
        add(store, note="\udcff")
    assert store.versions() == []


def test_measurements_are_appended(path: Path, store: Store, add: Add) -> None:
    add(store)
    before = store.resolve("helpful")
    first = store.measure("helpful", 1, "calibration", {"factor": 1.5}, "margin/64")
    second = store.measure("helpful", 1, "calibration", {"factor": 1.4}, "margin/128")
    read = store.resolve("helpful")
    assert read.measurements == (first, second)
    assert first.created <= second.created
    assert (read.sha256, read.metadata, read.created) == (
        before.sha256,
        before.metadata,
        before.created,
    )
    with pytest.raises(RegistryError, match="Version 2 of axis 'helpful' does not exist"):
        store.measure("helpful", 2, "calibration", 1, "none")


def test_an_aliased_version_is_removed_only_by_force(store: Store, add: Add) -> None:
    add(store)
    store.set_alias("helpful", 1, "stable")
    with pytest.raises(
        RegistryError, match=r"helpful@1 is not removed: the alias 'stable'.*`force=`"
    ):
        store.remove("helpful", 1)
    assert len(store.versions()) == 1
    store.remove("helpful", 1, force=True)
    assert store.versions() == []


def test_removing_takes_measurements_along_and_says_when_repeated(store: Store, add: Add) -> None:
    add(store)
    add(store)
    store.measure("helpful", 1, "score", 1, "p")
    store.remove("helpful", 1)
    assert store.verify() == []
    with pytest.raises(RegistryError, match=r"Version 1 of axis 'helpful' was removed.*version 2"):
        store.remove("helpful", 1)


def test_a_name_of_another_axis_is_refused(store: Store, add: Add) -> None:
    add(store, "verbosity", aliases=("verbose",))
    with pytest.raises(RegistryError, match="'verbose' is an alias of axis 'verbosity'"):
        add(store, "verbose")
    with pytest.raises(RegistryError, match="alias 'verbosity': it is another axis"):
        add(store, "length", aliases=("verbosity",))
    with pytest.raises(RegistryError, match="alias 'verbose': it is an alias of axis 'verbosity'"):
        store.check_names("length", ["verbose"])
    store.check_names("verbosity", ["verbose", "wordy"])
    assert list(store.axes()) == ["verbosity"]


@pytest.mark.parametrize("name", ["Helpful", "", "a b", "1a", "a@b"])
def test_a_malformed_axis_name_is_refused(store: Store, add: Add, name: str) -> None:
    with pytest.raises(UsageError, match="is no axis name"):
        add(store, name)
    with pytest.raises(UsageError, match="is no axis name"):
        add(store, "helpful", aliases=(name,))


def test_aliases_of_all_versions_name_the_axis(store: Store, add: Add) -> None:
    add(store, "verbosity", aliases=("verbose", "verbosity", "verbose"))
    add(store, "verbosity", aliases=("wordy",))
    assert store.axes() == {"verbosity": ("verbose", "wordy")}
    assert [version.axis_aliases for version in store.versions()] == [("verbose",), ("wordy",)]
    assert store.canonical("wordy") == store.canonical("verbosity") == "verbosity"
    assert store.canonical("terse") is None


def test_a_store_opened_to_read_does_not_write(path: Path, store: Store, add: Add) -> None:
    add(store)
    with (
        Store.open(path, write=False) as reader,
        pytest.raises(RegistryError, match="opened for reading only"),
    ):
        add(reader)


@pytest.mark.parametrize("change", ["content", "touch", "copy"])
@pytest.mark.file
def test_a_changed_file_is_hashed_again(store: Store, add: Add, change: str) -> None:
    record = add(store, data=b"d" * 100)
    source = store.vector_source(record)
    assert isinstance(source, Path)
    if change == "content":
        source.write_bytes(b"e" * 100)
        with pytest.raises(VectorError, match=r"helpful@1 .* do not match their hash"):
            store.vector_source(record)
        return
    if change == "touch":
        os.utime(source, ns=(1, 1))
    else:
        copy = source.with_suffix(".copy")
        copy.write_bytes(source.read_bytes())
        copy.replace(source)
    assert store.vector_source(record) == source


@pytest.mark.file
def test_a_change_that_keeps_size_and_times_is_found_on_demand(store: Store, add: Add) -> None:
    record = add(store, data=b"d" * 100)
    source = store.vector_source(record)
    assert isinstance(source, Path)
    times = source.stat()
    with source.open("r+b") as file:
        file.write(b"e")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.vector_source(record) == source
    with pytest.raises(VectorError, match="do not match their hash"):
        store.vector_source(record, rehash=True)


def test_importing_the_room_loads_no_database(path: Path, store: Store, add: Add) -> None:
    add(store)
    code = (
        "import sys, prefreg.registry as r\n"
        "assert 'sqlalchemy' not in sys.modules\n"
        f"with r.Store.open({str(path)!r}, write=False) as s: assert len(s.versions()) == 1\n"
        "assert not {'alembic', 'torch'} & set(sys.modules)\n"
    )
    source = str(Path(sys.modules["prefreg.registry"].__file__ or "").parents[2])
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source}
    )


def test_the_room_has_no_other_names() -> None:
    import prefreg.registry

    with pytest.raises(AttributeError, match="no attribute 'Shop'"):
        prefreg.registry.Shop  # type: ignore[attr-defined]  # noqa: B018  # that is the test


def test_the_argument_wins_over_the_environment(trained: Path, monkeypatch) -> None:
    monkeypatch.setenv("PREFREG_REGISTRY", "elsewhere.db")
    with Access(trained).reading() as store:
        assert len(store.versions()) == 2
    with pytest.raises(RegistryError, match=r"no registry at elsewhere\.db"):
        Access().reading()
    assert not Access().is_present()


def test_writing_creates_what_is_missing_and_reading_does_not(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        Access("new.db").reading()
    with pytest.raises(RegistryError, match="to change"):
        Access("new.db").changing()
    assert list(tmp_path.iterdir()) == []
    with Access("new.db").writing() as store:
        assert store.versions() == []
    assert (tmp_path / "new.db").is_file()
    with Access("new.db").changing() as store:
        assert store.versions() == []


def test_without_a_name_writers_use_the_folder_they_are_in(tmp_path: Path) -> None:
    with Access().writing():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["registry.db"]
    with Access().reading() as store:
        assert store.versions() == []


def test_a_row_whose_value_was_taken_out_is_called_damaged(store: Store, path: Path, add) -> None:
    add(store, "helpful", tags=("good",))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "DROP TABLE tags; CREATE TABLE tags (version_id INTEGER, name TEXT);"
            "INSERT INTO tags VALUES (1, NULL);"
        )
    with pytest.raises(RegistryError, match=r"a damaged row of tags .*Restore it from a backup"):
        store.summaries()
