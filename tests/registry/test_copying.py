"""A version in another registry: what comes along, what is refused."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefreg.errors import RegistryError, UsageError, VectorError
from prefreg.registry import BaseIdentity, Store, VersionRecord, upkeep
from prefreg.registry.transfer import Copied

Add = Callable[..., VersionRecord]
MakeBase = Callable[..., BaseIdentity]


@pytest.fixture
def other(tmp_path: Path, empty: Path) -> Iterator[Store]:
    """Another registry, empty, that keeps everything of up to 200 bytes inline."""
    shutil.copy(empty, tmp_path / "other.db")
    with Store.open(tmp_path / "other.db", write=True, inline_limit=200) as opened:
        yield opened


def copy(store: Store, record: VersionRecord, target: Store, **options: object) -> Copied:
    source = store.vector_source(record)
    return upkeep.copy(store, source, record, target, **options)  # type: ignore[arg-type]


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
    with pytest.raises(
        RegistryError,
        match=rf"helpful@1 is not copied: helpful@1 is a different version there "
        rf"\({taken.sha256[:12]}, on pocket\)\. Use --renumber to give it the next number, 2\.",
    ):
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
    with pytest.raises(RegistryError, match=r"helpful@1 was used before there. Use --renumber"):
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
    assert not list((other.folder or Path()).glob("*"))


def test_the_moment_of_the_original_is_kept(path: Path, other: Store, add: Add) -> None:
    moment = datetime(2025, 5, 1, tzinfo=UTC)
    with Store.open(path, write=True, clock=lambda: moment) as store:
        assert copy(store, add(store), other).record.created == moment
