"""Snapshots: whole, verified, and never at the cost of what was there."""

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import Store, VersionRecord, upkeep

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


def test_a_backup_holds_everything(filled: Store, target: Path) -> None:
    done = upkeep.back_up(filled, target)
    with Store.open(target, write=False) as copy:
        assert copy.versions() == filled.versions()
        assert copy.alias_history("helpful") == filled.alias_history("helpful")
        assert copy.bases() == filled.bases()
        assert copy.verify() == []
        for record in copy.versions():
            source = copy.vector_source(record)
            assert isinstance(source, bytes) or source.parent == target.with_suffix(".vectors")
        use = upkeep.disk_use(copy)
    assert (done.path, done.versions, done.files, done.bytes) == (target, 3, 2, use.total)
    assert len(names(target.parent)) == 3


def test_a_backup_of_an_older_schema_is_as_old(filled: Store, path: Path, target: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE tags; UPDATE alembic_version SET version_num='0001'")
    connection.close()
    with Store.open(path, write=False) as old:
        assert upkeep.back_up(old, target).versions == 3
    with Store.open(target, write=False) as copy:
        assert copy.verify() == []
        assert [record.tags for record in copy.versions()] == [()] * 3


def test_a_file_that_exists_is_replaced_only_on_request(filled: Store, target: Path) -> None:
    upkeep.back_up(filled, target)
    filled.remove("verbosity", 1)
    with pytest.raises(RegistryError, match=r"copy.db exists. Name another file, or use --overw"):
        upkeep.back_up(filled, target)
    with Store.open(target, write=False) as copy:
        assert len(copy.versions()) == 3
    assert upkeep.back_up(filled, target, overwrite=True).versions == 2
    assert len(names(target.parent)) == 2  # the vector that is not needed is gone
    with Store.open(target, write=False) as copy:
        assert copy.verify() == []


@pytest.mark.parametrize("content", [b"my thesis", b""])
def test_only_a_registry_is_replaced(filled: Store, target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(RegistryError):
        upkeep.back_up(filled, target, overwrite=True)
    assert target.read_bytes() == content
    assert names(target.parent) == ["copy.db"]


def test_the_registry_itself_is_no_backup(filled: Store, path: Path, target: Path) -> None:
    target.symlink_to(path)
    os.link(path, path.with_name("hard.db"))
    for name in (path, target, path.with_name("hard.db")):
        with pytest.raises(RegistryError, match="is the registry itself"):
            upkeep.back_up(filled, name, overwrite=True)
    assert filled.verify() == []


def test_a_folder_must_exist_and_be_no_file(filled: Store, tmp_path: Path, target: Path) -> None:
    with pytest.raises(RegistryError, match=r"The folder .*nowhere does not exist"):
        upkeep.back_up(filled, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(RegistryError, match="is not a registry: it is no file"):
        upkeep.back_up(filled, target.parent, overwrite=True)


def test_a_damaged_registry_is_not_backed_up(filled: Store, target: Path) -> None:
    source = filled.vector_source(filled.resolve("verbosity"))
    assert isinstance(source, Path)
    source.write_bytes(b"z" * 600)
    with pytest.raises(RegistryError, match="do not match their hash"):
        upkeep.back_up(filled, target)
    source.unlink()
    with pytest.raises(RegistryError, match=r"is missing, so .* cannot be backed up"):
        upkeep.back_up(filled, target)
    assert list(target.parent.iterdir()) == []


def test_a_backup_that_fails_leaves_the_one_before(filled: Store, add: Add, target: Path) -> None:
    upkeep.back_up(filled, target)
    before, files = target.read_bytes(), names(target.parent)
    add(filled, data=b"v" * 700)
    source = filled.vector_source(add(filled, data=b"w" * 700))
    assert isinstance(source, Path)
    source.write_bytes(b"z" * 700)
    with pytest.raises(RegistryError, match="do not match their hash"):
        upkeep.back_up(filled, target, overwrite=True)
    assert target.read_bytes() == before
    assert names(target.parent) == files


def test_one_backup_at_a_time_goes_to_a_file(filled: Store, target: Path) -> None:
    with target.with_name(".copy.db.lock").open("wb") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        with pytest.raises(RegistryError, match=r"Another backup to .*copy.db is under way"):
            upkeep.back_up(filled, target)
        assert upkeep.back_up(filled, target.with_name("else.db")).versions == 3
    assert upkeep.back_up(filled, target).versions == 3


def test_what_a_killed_backup_left_is_taken_up(filled: Store, target: Path) -> None:
    vectors = target.with_suffix(".vectors")
    vectors.mkdir()
    for name in (".copy.db.lock", ".copy.db.partial", ".copy.db.partial-journal"):
        target.with_name(name).write_bytes(b"half a page")
    target.with_name("copy.db-journal").write_bytes(b"of a database that is gone")
    stored = filled.vector_source(filled.resolve("verbosity"))
    assert isinstance(stored, Path)
    (vectors / stored.name).write_bytes(b"half a vector")
    (vectors / f"{'0' * 64}.safetensors").write_bytes(b"of no version")
    (vectors / ".0123456789abcdef.part").write_bytes(b"a part")
    assert upkeep.back_up(filled, target).versions == 3
    assert len(names(target.parent)) == 3
    with Store.open(target, write=False) as copy:
        assert copy.verify() == []


def test_the_disk_is_added_up(filled: Store, path: Path) -> None:
    (path.with_suffix(".vectors") / "notes.txt").write_bytes(b"1234567")
    use = upkeep.disk_use(filled)
    assert (use.database, use.files, use.beside) == (path.stat().st_size, 3, 500 + 600 + 7)
    assert use.total == use.database + use.beside
