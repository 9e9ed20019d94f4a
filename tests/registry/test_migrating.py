import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import prefreg.registry.migrating
from prefreg.errors import RegistryError
from prefreg.registry import Store, VersionRecord
from prefreg.registry.migrating import REVISIONS, find_revision
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
    folder = Path(prefreg.registry.migrating.__file__).parent / "migrations"
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
