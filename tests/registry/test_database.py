"""Opening a registry's file, and bringing an older one to today's schema."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import prefreg.registry.database
from older import BESIDE, INLINE, write_older
from prefreg.errors import RegistryError
from prefreg.registry import Access, BaseIdentity, Store, VersionRecord
from prefreg.registry.database import REVISIONS, find_revision
from prefreg.registry.schema import Base

Add = Callable[..., VersionRecord]
Start = Callable[..., "subprocess.Popen[str]"]


def _fingerprint(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns, status.st_ino


def _read_all(path: Path) -> None:
    with Store.open(path, write=False) as store:
        for record in store.versions():
            store.vector_source(record)


def test_a_missing_registry_is_told_to_readers_and_made_by_writers(path: Path) -> None:
    with pytest.raises(
        RegistryError, match=r"no registry at .*registry.db. `prefreg add-axis NAME`"
    ):
        Store.open(path, write=False)
    assert not path.exists()
    Store.open(path, write=True).close()
    with Store.open(path, write=False) as store:
        assert store.versions() == []


def test_reading_everything_leaves_the_file_and_its_folder_as_they_were(
    path: Path, add: Add
) -> None:
    with Store.open(path, write=True, inline_limit=4) as store:
        add(store, data=b"inline"[:4])
        add(store, data=b"external")
        store.set_alias("helpful", 1, "stable")
    before, folder = _fingerprint(path), sorted(path.parent.rglob("*"))
    with Store.open(path, write=False) as store:
        for record in store.versions():
            store.vector_source(record, rehash=True)
        store.resolve("helpful", "stable")
        store.alias_history("helpful")
        store.bases()
        assert store.verify() == []
    assert _fingerprint(path) == before
    assert sorted(path.parent.rglob("*")) == folder


def test_opening_to_write_without_writing_changes_nothing(path: Path) -> None:
    Store.open(path, write=True).close()
    before = _fingerprint(path)
    with Store.open(path, write=True) as store:
        assert store.versions() == []
    assert _fingerprint(path) == before


def test_the_journal_is_never_a_write_ahead_log(path: Path) -> None:
    Store.open(path, write=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    Store.open(path, write=True).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("content", [b"hello\n", b"\x00" * 5000, b"x" * 5000])
def test_a_file_that_is_no_database_is_refused_and_kept(
    path: Path, content: bytes, write: bool
) -> None:
    path.write_bytes(content)
    with pytest.raises(RegistryError, match="is not a registry: it is no SQLite database"):
        Store.open(path, write=write)
    assert path.read_bytes() == content


@pytest.mark.parametrize("write", [True, False])
def test_the_database_of_something_else_is_refused_and_kept(path: Path, write: bool) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE alembic_version (version_num); CREATE TABLE runs (id)")
    connection.close()
    before = _fingerprint(path)
    with pytest.raises(RegistryError, match="is a database, but not a prefreg registry"):
        Store.open(path, write=write)
    assert _fingerprint(path) == before


def test_an_empty_file_is_empty_to_readers_and_new_to_writers(path: Path) -> None:
    path.touch()
    with pytest.raises(RegistryError, match=r"registry.db is empty"):
        Store.open(path, write=False)
    with Store.open(path, write=True) as store:
        assert store.versions() == []


@pytest.mark.parametrize("write", [True, False])
def test_a_folder_is_no_registry(tmp_path: Path, write: bool) -> None:
    with pytest.raises(RegistryError, match="it is no file"):
        Store.open(tmp_path, write=write)


@pytest.mark.parametrize("write", [True, False])
def test_a_link_to_itself_is_no_registry(tmp_path: Path, write: bool) -> None:
    (tmp_path / "r.db").symlink_to("r.db")
    with pytest.raises(RegistryError, match=r"r\.db"):
        Store.open(tmp_path / "r.db", write=write)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"folder of the registry .* does not exist"):
        Store.open(tmp_path / "no" / "registry.db", write=True)


def test_a_truncated_registry_is_damaged(path: Path, add: Add) -> None:
    with Store.open(path, write=True) as store:
        for _ in range(3):
            add(store, data=os.urandom(20_000))
    os.truncate(path, 16_384)
    with pytest.raises(RegistryError, match=r"registry.db is damaged .*Restore it from a backup"):
        _read_all(path)


def test_a_busy_registry_is_told_after_the_timeout(path: Path, add: Add) -> None:
    Store.open(path, write=True).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Store.open(path, write=True, busy_timeout=0.05) as store:
        assert store.versions() == []  # a writer that has not committed keeps no reader waiting
        with pytest.raises(RegistryError, match="is in use by another process"):
            add(store)
        other.execute("ROLLBACK")
        other.close()
        assert add(store).number == 1


@pytest.mark.parametrize("name", ["a b#c?d%20é.db", "file:x.db", "plain", "two.dots.db"])
@pytest.mark.parametrize("relative", [True, False])
def test_any_file_name_will_do(
    tmp_path: Path, add: Add, monkeypatch: pytest.MonkeyPatch, name: str, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    location = name if relative else tmp_path / name
    with Store.open(location, write=True, inline_limit=0) as store:
        add(store)
    with Store.open(location, write=False) as store:
        assert store.location == str(location)
        assert store.verify() == []
    assert (tmp_path / name).is_file()


def test_a_url_names_the_same_registry(path: Path, add: Add) -> None:
    with Store.open(f"sqlite:///{path}", write=True) as store:
        add(store)
    with Store.open(path, write=False) as store:
        assert len(store.versions()) == 1


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true"])
def test_a_url_that_keeps_nothing_is_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="A registry is kept in a plain file"):
        Store.open(url, write=True)


@pytest.mark.parametrize("port", ["abc", "99999999"])
def test_a_port_that_is_none_is_refused_without_the_password(port: str) -> None:
    with pytest.raises(RegistryError, match="is not a database URL") as caught:
        Store.open(f"postgresql://user:SECRET@host:{port}/name", write=False)
    assert "SECRET" not in str(caught.value)


def test_the_url_of_a_file_is_that_file_in_everything(tmp_path: Path, add: Add) -> None:
    by_url, by_path = Access(f"sqlite:///{tmp_path}/new.db"), Access(tmp_path / "new.db")
    said = []
    for access in (by_url, by_path):
        assert not access.is_present()
        for step in (access.reading, access.changing):
            with pytest.raises(RegistryError) as caught:
                step()
            said.append(str(caught.value))
    assert said[:2] == said[2:]
    with by_url.writing() as store:
        add(store)
    assert by_url.is_present()
    with by_path.reading() as store:
        assert len(store.versions()) == 1


@pytest.mark.parametrize("url", ["://", "nosuch://host/name"])
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(RegistryError):
        Store.open(url, write=False)


def test_a_link_leads_to_the_registry_and_its_vectors(path: Path, add: Add) -> None:
    with Store.open(path, write=True, inline_limit=0) as store:
        add(store)
    link = path.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with Store.open(link, write=False) as store:
        assert store.verify() == []
        assert store.vector_source(store.resolve("helpful"))


def test_two_registries_in_one_folder_share_no_vectors(tmp_path: Path, add: Add) -> None:
    names = ["foo", "foo.db", "foo.sqlite", "foo.db.db", ".db"]
    for name in names:
        with Store.open(tmp_path / name, write=True, inline_limit=0) as store:
            add(store)
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == len(names)
    assert (tmp_path / "foo.vectors").is_dir()


def test_a_copy_of_file_and_folder_is_a_registry(path: Path, add: Add) -> None:
    with Store.open(path, write=True, inline_limit=0) as store:
        add(store)
    copy = path.parent / "copy.db"
    shutil.copy(path, copy)
    shutil.copytree(path.with_suffix(".vectors"), copy.with_suffix(".vectors"))
    with Store.open(copy, write=False) as store:
        assert store.verify() == []


def test_a_write_that_was_cut_off_is_undone_by_the_next_reader(
    path: Path, add: Add, start: Start
) -> None:
    with Store.open(path, write=True) as store:
        for _ in range(4):
            add(store, data=os.urandom(10_000), note="whole")
    start("crash_in_commit", path).wait()
    journal = path.with_name("registry.db-journal")
    assert journal.exists()
    with Store.open(path, write=False) as reader:
        assert [record.note for record in reader.versions()] == ["whole"] * 4
        assert reader.verify() == []
    assert not journal.exists()


def _set_revision(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
    connection.close()


def test_the_revisions_give_the_tables_that_the_models_describe(path: Path) -> None:
    Store.open(path, write=True).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_the_list_of_revisions_is_that_of_the_folder() -> None:
    config = Config()
    folder = Path(prefreg.registry.database.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())
    assert tuple(script.revision for script in reversed(scripts)) == REVISIONS


@pytest.mark.parametrize("write", [True, False])
def test_a_newer_schema_is_refused_and_kept(path: Path, add: Add, write: bool) -> None:
    with Store.open(path, write=True) as store:
        add(store)
    _set_revision(path, "9999")
    before = path.read_bytes()
    with pytest.raises(RegistryError, match=r"has schema '9999', newer .* Upgrade prefreg\.$"):
        Store.open(path, write=write)
    assert path.read_bytes() == before


def test_an_older_schema_is_told_from_a_newer_one(path: Path) -> None:
    Store.open(path, write=True).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert find_revision(connection, "r") == REVISIONS[-1]
        assert find_revision(connection, "r", (*REVISIONS, "later")) == REVISIONS[-1]
        with pytest.raises(RegistryError, match="newer"):
            find_revision(connection, "r", ("later",))
    engine.dispose()


def test_an_interrupted_creation_is_finished_by_the_next_writer(path: Path) -> None:
    sqlite3.connect(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("BEGIN IMMEDIATE; CREATE TABLE axes (id); ROLLBACK")
    connection.close()
    with Store.open(path, write=True) as store:
        assert store.verify() == []


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("write", [False, True])
def test_everything_of_an_earlier_revision_is_there(path: Path, revision: str, write: bool) -> None:
    write_older(path, revision)
    before = path.read_bytes()
    with Store.open(path, write=write) as store:
        check_content(store, tagged=revision >= "0002")
    if write:
        assert _revision(path) == REVISIONS[-1]
        with Store.open(path, write=False) as store:
            check_content(store, tagged=revision >= "0002")
    else:
        assert path.read_bytes() == before
        assert _revision(path) == revision


def check_content(store: Store, *, tagged: bool) -> None:
    """Compare every row, as records, with what `write_older` wrote."""
    assert store.verify() == []
    moment = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    first, second, third = store.versions()
    assert [str(record) for record in (first, second, third)] == [
        "helpful@1",
        "helpful@3",
        "verbosity@1",
    ]
    assert (first.axis_aliases, first.aliases) == (("help", "kind"), ("stable",))
    assert (first.note, first.created, repr(first.metadata)) == (
        "φ, first",
        moment,
        "{'seed': 7, 'loss': [0.5, 1.0], 'exact': 1.0}",
    )
    assert [(m.kind, m.value, m.protocol, m.created) for m in first.measurements] == [
        ("score", {"m": 1.0}, "p", moment),
        ("score", 2, "q", moment),
    ]
    assert (first.base.name, first.base.revision, first.base.path) == ("org/a", "r0", "/models/a")
    assert (second.kind, second.aliases, second.inline) == ("low-rank", (), False)
    assert second.base.parameters == 5_000_000_000
    assert (third.dtype, third.axis_aliases) == ("BF16", ("verbose",))
    tags = [record.tags for record in (first, second, third)]
    assert tags == ([("good", "paper"), (), ("good",)] if tagged else [(), (), ()])
    assert store.vector_source(first) == INLINE
    beside = store.vector_source(second, rehash=True)
    assert isinstance(beside, Path)
    assert beside.read_bytes() == BESIDE
    assert [(e.alias, e.number, e.action) for e in store.alias_history("helpful")] == [
        ("stable", 2, "set"),
        ("stable", 1, "moved"),
        ("best", 3, "set"),
        ("best", None, "deleted"),
    ]
    last = store.last_base()
    assert last is not None
    assert last.name == "org/a"


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_upgraded_registry_is_as_good_as_a_new_one(
    path: Path, revision: str, add: Add, base: Callable[..., BaseIdentity]
) -> None:
    write_older(path, revision)
    with Store.open(path, write=True) as store:
        assert add(store, base=base("new")).number == 4
        assert store.tag("helpful", 3, ["fine"]).tags == ("fine",)
        store.rename_axis("verbose", "wordy")
        assert add(store, "wordy").number == 2
        store.remove("helpful", 1, force=True)
        with pytest.raises(RegistryError, match="was removed"):
            store.resolve("helpful", "1")
        assert store.verify() == []
    connection = sqlite3.connect(path)
    # What a version had goes with it: the foreign keys cascade as in a new registry.
    for table in ("axis_aliases", "measurements", "tags"):
        rows = connection.execute(f"SELECT * FROM {table} WHERE version_id = 1").fetchall()
        assert rows == [], table
    connection.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as reader:
        assert compare_metadata(MigrationContext.configure(reader), Base.metadata) == []
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    write_older(path, "0001")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE ix_blobs_size (in_the_way)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RegistryError, match="ix_blobs_size"):
        Store.open(path, write=True)
    assert path.read_bytes() == before
    with Store.open(path, write=False) as store:
        check_content(store, tagged=False)


def _revision(path: Path) -> str:
    connection = sqlite3.connect(path)
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return str(revision)
