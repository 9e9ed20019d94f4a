import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import prefreg.registry.opening
from older import BESIDE, INLINE, write_older
from prefreg.errors import RegistryError
from prefreg.registry import BaseIdentity, Store, VersionRecord, upkeep
from prefreg.registry.opening import REVISIONS, find_revision
from prefreg.registry.schema import Base

Add = Callable[..., VersionRecord]


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
    folder = Path(prefreg.registry.opening.__file__).parent / "migrations"
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
        assert upkeep.tag(store, "helpful", 3, ["fine"]).tags == ("fine",)
        upkeep.rename_axis(store, "verbose", "wordy")
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
