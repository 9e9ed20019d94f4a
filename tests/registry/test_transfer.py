"""Snapshots, whole and verified; and versions in another registry."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefreg.errors import RegistryError, UsageError, VectorError
from prefreg.files import mark_beside
from prefreg.registry import BaseIdentity, Copied, Store, VersionRecord, transfer

Add = Callable[..., VersionRecord]


@pytest.fixture
def filled(store: Store, add: Add) -> Store:
    """One version inside the database, two beside it, with all that can hang on them."""
    add(store, data=b"small", tags=("good",), aliases=("help",))
    add(store, data=b"x" * 500)
    add(store, "verbosity", data=b"y" * 600)
    store.set_alias("helpful", 2, "stable")
    store.measure("helpful", 1, "score", 1.0, "p")
    return store


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the backup goes: a folder of its own."""
    (tmp_path / "safe").mkdir()
    return tmp_path / "safe" / "copy.db"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.file
def test_a_backup_holds_everything(filled: Store, target: Path) -> None:
    done = transfer.back_up(filled, target)
    with Store.open(target, write=False) as copy:
        assert copy.versions() == filled.versions()
        assert copy.alias_history("helpful") == filled.alias_history("helpful")
        assert copy.bases() == filled.bases()
        assert copy.verify() == []
        for record in copy.versions():
            source = copy.vector_source(record)
            assert isinstance(source, bytes) or source.parent == target.with_suffix(".vectors")
        use = copy.disk_use()
    assert (done.path, done.versions, done.files, done.bytes) == (target, 3, 2, use.total)
    assert len(names(target.parent)) == 3


def test_a_backup_of_an_older_schema_is_as_old(filled: Store, path: Path, target: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE tags; UPDATE alembic_version SET version_num='0001'")
    connection.close()
    with Store.open(path, write=False) as old:
        assert transfer.back_up(old, target).versions == 3
    with Store.open(target, write=False) as copy:
        assert copy.verify() == []
        assert [record.tags for record in copy.versions()] == [()] * 3


@pytest.mark.file
def test_a_file_that_exists_is_replaced_only_on_request(filled: Store, target: Path) -> None:
    transfer.back_up(filled, target)
    filled.remove("verbosity", 1)
    with pytest.raises(RegistryError, match="Name another file, or use `overwrite=`"):
        transfer.back_up(filled, target)
    with Store.open(target, write=False) as copy:
        assert len(copy.versions()) == 3
    assert transfer.back_up(filled, target, overwrite=True).versions == 2
    assert len(names(target.parent)) == 2  # the vector that is not needed is gone
    with Store.open(target, write=False) as copy:
        assert copy.verify() == []


@pytest.mark.parametrize("content", [b"my thesis", b""])
def test_only_a_registry_is_replaced(filled: Store, target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(RegistryError):
        transfer.back_up(filled, target, overwrite=True)
    assert target.read_bytes() == content
    assert names(target.parent) == ["copy.db"]


def test_the_registry_itself_is_no_backup(filled: Store, path: Path, target: Path) -> None:
    target.symlink_to(path)
    os.link(path, path.with_name("hard.db"))
    for name in (path, target, path.with_name("hard.db")):
        with pytest.raises(RegistryError, match="is the registry itself"):
            transfer.back_up(filled, name, overwrite=True)
    assert filled.verify() == []


def test_a_folder_must_exist_and_be_no_file(filled: Store, tmp_path: Path, target: Path) -> None:
    with pytest.raises(RegistryError, match=r"The folder .*nowhere does not exist"):
        transfer.back_up(filled, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(RegistryError, match="is not a registry: it is no file"):
        transfer.back_up(filled, target.parent, overwrite=True)


@pytest.mark.file
def test_a_damaged_registry_is_not_backed_up(filled: Store, target: Path) -> None:
    source = filled.vector_source(filled.resolve("verbosity"))
    assert isinstance(source, Path)
    source.write_bytes(b"z" * 600)
    with pytest.raises(RegistryError, match="do not match their hash"):
        transfer.back_up(filled, target)
    source.unlink()
    with pytest.raises(RegistryError, match=r"is missing, so .* cannot be backed up"):
        transfer.back_up(filled, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.file
def test_a_backup_that_fails_leaves_the_one_before(filled: Store, add: Add, target: Path) -> None:
    transfer.back_up(filled, target)
    before, files = target.read_bytes(), names(target.parent)
    add(filled, data=b"v" * 700)
    source = filled.vector_source(add(filled, data=b"w" * 700))
    assert isinstance(source, Path)
    source.write_bytes(b"z" * 700)
    with pytest.raises(RegistryError, match="do not match their hash"):
        transfer.back_up(filled, target, overwrite=True)
    assert target.read_bytes() == before
    assert names(target.parent) == files


def test_one_backup_at_a_time_goes_to_a_file(filled: Store, target: Path) -> None:
    with mark_beside(target).open("wb") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        with pytest.raises(RegistryError, match=r"Another backup to .*copy.db is under way"):
            transfer.back_up(filled, target)
        assert transfer.back_up(filled, target.with_name("else.db")).versions == 3
    assert transfer.back_up(filled, target).versions == 3


@pytest.mark.file
def test_what_a_killed_backup_left_is_taken_up(filled: Store, target: Path) -> None:
    vectors = target.with_suffix(".vectors")
    vectors.mkdir()
    dead = f".copy.db.{'0' * 8}-1-1-{'0' * 8}.partial"  # of another machine, long ago
    for name in (dead, f"{dead}-journal", mark_beside(target).name):
        target.with_name(name).write_bytes(b"half a page")
        os.utime(target.with_name(name), (0, 0))
    target.with_name("copy.db-journal").write_bytes(b"of a database that is gone")
    stored = filled.vector_source(filled.resolve("verbosity"))
    assert isinstance(stored, Path)
    (vectors / stored.name).write_bytes(b"half a vector")
    (vectors / f"{'0' * 64}.safetensors").write_bytes(b"of no version")
    (vectors / ".0123456789abcdef.part").write_bytes(b"a part")
    assert transfer.back_up(filled, target).versions == 3
    assert len(names(target.parent)) == 3
    with Store.open(target, write=False) as copy:
        assert copy.verify() == []


def test_the_disk_is_added_up(filled: Store, path: Path) -> None:
    (path.with_suffix(".vectors") / "notes.txt").write_bytes(b"1234567")
    use = filled.disk_use()
    assert (use.database, use.files, use.beside) == (path.stat().st_size, 3, 500 + 600 + 7)
    assert use.total == use.database + use.beside


MakeBase = Callable[..., BaseIdentity]


@pytest.fixture
def other(tmp_path: Path, empty: Path) -> Iterator[Store]:
    """Another registry, empty, that keeps everything of up to 200 bytes inline."""
    shutil.copy(empty, tmp_path / "other.db")
    with Store.open(tmp_path / "other.db", write=True, inline_limit=200) as opened:
        yield opened


def copy(store: Store, record: VersionRecord, target: Store, **options: object) -> Copied:
    source = store.vector_source(record)
    return target.take(record, source, **options)  # type: ignore[arg-type]


def content(store: Store, record: VersionRecord) -> bytes:
    source = store.vector_source(record, rehash=True)
    return source if isinstance(source, bytes) else source.read_bytes()


@pytest.mark.parametrize("size", [40, 150, 400])
def test_a_copy_is_the_same_version(store: Store, other: Store, add: Add, size: int) -> None:
    data = bytes(range(size % 251)) * 2
    add(store)
    added = add(store, data=data, aliases=("help",), tags=("a", "b"), note="φ", metadata={"x": 1.0})
    store.measure("helpful", 2, "score", {"m": 0.7}, "p")
    store.measure("helpful", 2, "score", {"m": 0.8}, "q")
    record = store.resolve("helpful", "2")
    done = copy(store, record, other)
    assert (done.added, done.registry) == (True, other.location)
    known = replace(done.record.base, created=record.base.created)
    assert replace(done.record, inline=record.inline, base=known) == record
    assert done.record == other.resolve("help", "2")
    assert (done.record.created, done.record.sha256) == (added.created, added.sha256)
    assert content(other, done.record) == data
    assert other.verify() == []
    assert store.verify() == []


def test_a_second_copy_finds_the_first(store: Store, other: Store, add: Add) -> None:
    record = add(store)
    copy(store, record, other)
    for options in ({}, {"renumber": True}):
        again = copy(store, record, other, **options)
        assert (again.added, str(again.record)) == (False, "helpful@1")
    assert copy(store, record, store).added is False
    assert len(other.versions()) == len(store.versions()) == 1


def test_equal_bytes_on_another_base_are_another_version(
    store: Store, other: Store, add: Add, base: MakeBase
) -> None:
    record = add(store)
    add(other, base=base("org/else"))
    with pytest.raises(RegistryError, match=r"helpful@1 is a different version there .*org/else"):
        copy(store, record, other)
    assert copy(store, record, other, renumber=True).record.number == 2


def test_a_copy_onto_a_different_version_is_refused(
    store: Store, other: Store, add: Add, tmp_path: Path
) -> None:
    record, taken = add(store, data=b"mine" * 100), add(other, data=b"theirs" * 100)
    before = other.versions()
    told = rf"a different version there \({taken.sha256[:12]}, on pocket\).*`renumber=`"
    with pytest.raises(RegistryError, match=told):
        copy(store, record, other)
    assert other.versions() == before
    assert [file.stem for file in (tmp_path / "other.vectors").iterdir()] == [taken.sha256]
    assert other.verify() == []
    assert copy(store, record, other, renumber=True).record.number == 2


def test_a_number_that_was_used_before_is_not_used_again(
    store: Store, other: Store, add: Add
) -> None:
    record = add(store)
    add(other, data=b"theirs")
    other.remove("helpful", 1)
    with pytest.raises(RegistryError, match=r"helpful@1 was used before there. Use `renumber=`"):
        copy(store, record, other)
    assert copy(store, record, other, renumber=True).record.number == 2


def test_a_number_that_is_passed_over_stays_free_of_later_versions(
    store: Store, other: Store, add: Add
) -> None:
    for data in (b"1", b"2", b"3"):
        add(store, data=data)
    copy(store, store.resolve("helpful", "3"), other)
    assert add(other, data=b"new").number == 4
    with pytest.raises(RegistryError, match="was used before"):
        copy(store, store.resolve("helpful", "2"), other)


def test_an_axis_can_have_another_name_there(store: Store, other: Store, add: Add) -> None:
    record = add(store, aliases=("help",))
    add(other, "verbosity", aliases=("verbose",))
    done = copy(store, record, other, axis="useful")
    assert (str(done.record), done.record.axis_aliases) == ("useful@1", ())
    assert str(copy(store, add(store, data=b"2"), other, axis="verbose").record) == "verbosity@2"
    with pytest.raises(UsageError, match="is no axis name"):
        copy(store, record, other, axis="No Name")


def test_an_alias_that_another_axis_bears_is_refused(store: Store, other: Store, add: Add) -> None:
    record = add(store, aliases=("kind",))
    add(other, "kind")
    with pytest.raises(RegistryError, match="cannot have the alias 'kind': it is another axis"):
        copy(store, record, other)
    assert list(other.axes()) == ["kind"]


def test_a_base_that_is_known_there_stays_where_it_is(
    store: Store, other: Store, add: Add, base: MakeBase
) -> None:
    weights = base().weights
    other.register_base(base("here", path="/here", weights=weights))
    last = other.register_base(base("last"))
    record = add(store, base=base("there", path="/there", weights=weights))
    done = copy(store, record, other)
    assert (done.record.base.name, done.record.base.path) == ("there", "/here")
    known = other.base(weights)
    assert known is not None
    assert known.name == "here"
    assert other.last_base() == last
    unknown = add(store, "verbosity", base=base("new", path="/new"))
    assert copy(store, unknown, other).record.base.path == "/new"


def test_damaged_bytes_are_not_copied(path: Path, store: Store, other: Store, add: Add) -> None:
    inline, external = add(store, data=b"good"), add(store, data=b"v" * 100)
    source = store.vector_source(external)
    assert isinstance(source, Path)
    times = source.stat()
    with source.open("r+b") as file:
        file.write(b"w")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk would
    with pytest.raises(VectorError, match=r"helpful@2 do not match their hash, so it is not copi"):
        copy(store, external, other)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE blobs SET data = ? WHERE data IS NOT NULL", [b"evil"])
    connection.close()
    with pytest.raises(VectorError, match="do not match their hash"):
        copy(store, inline, other)
    assert other.versions() == []
    assert other.place.held(0) == {}


def test_the_moment_of_the_original_is_kept(path: Path, other: Store, add: Add) -> None:
    moment = datetime(2025, 5, 1, tzinfo=UTC)
    with Store.open(path, write=True, clock=lambda: moment) as store:
        assert copy(store, add(store), other).record.created == moment
