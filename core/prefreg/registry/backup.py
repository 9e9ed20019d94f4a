"""A consistent snapshot of a registry, taken while others write, and checked before it appears."""

import os
import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from prefreg.errors import RegistryError
from prefreg.registry import blobs, maintenance
from prefreg.registry.migrating import check_schema, upgrade_schema
from prefreg.registry.opening import Database
from prefreg.registry.schema import Base

_ATTEMPTS = 5
_ROWS = 100


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds."""

    path: Path
    versions: int
    files: int
    """Vectors that lie beside the database."""
    bytes: int
    """The database and the vectors beside it."""


def back_up(database: Database, folder: Path | None, target: Path, *, overwrite: bool) -> Backup:
    """Write a snapshot of a registry to an SQLite file, with its vectors beside it.

    The file appears whole and verified, or not at all; what it replaces is kept until then.

    Raises:
        RegistryError: The target is in the way or cannot be written, or the registry is damaged.
    """
    target = target.resolve()
    if target == database.path:
        raise RegistryError(f"{target} is the registry itself. Name another file for the backup.")
    if target.exists() and not (overwrite and target.is_file()):
        raise RegistryError(f"{target} exists. Name another file, or use --overwrite.")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        return _write(database, folder, partial, target)
    except OSError as error:
        raise RegistryError(
            f"The backup {target} cannot be written ({error.filename or target}: "
            f"{error.strerror}). Check the folder and the free space."
        ) from error
    finally:
        for leftover in (partial, partial.with_name(f"{partial.name}-journal")):
            leftover.unlink(missing_ok=True)


def _write(database: Database, folder: Path | None, partial: Path, target: Path) -> Backup:
    vectors = blobs.blob_folder(target)
    if not target.parent.is_dir():
        raise RegistryError(f"The folder {target.parent} does not exist. Create it first.")
    for attempt in range(1, _ATTEMPTS + 1):
        partial.unlink(missing_ok=True)
        _snapshot(database, partial)
        try:
            files, size = _copy_files(partial, folder, vectors)
            break
        except FileNotFoundError as error:
            # Removed and collected after the snapshot was taken: the next one is without it.
            if attempt == _ATTEMPTS:
                raise RegistryError(
                    f"{error.filename} is missing, so {database.location} cannot be backed up. "
                    "`prefreg verify` says which versions need it."
                ) from error
    snapshot = Database.open(partial, write=False, busy_timeout=30)
    try:
        check_schema(snapshot)
        problems = maintenance.verify_registry(snapshot, vectors)
        if problems:
            raise RegistryError(
                f"{database.location} is damaged, so no backup was made: {problems[0]}"
            )
        with closing(sqlite3.connect(partial)) as connection:
            versions = connection.execute("SELECT count(*) FROM versions").fetchone()[0]
    finally:
        snapshot.close()
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    size += partial.stat().st_size
    os.replace(partial, target)
    blobs.sync_folder(target.parent)
    return Backup(target, versions, files, size)


def _snapshot(database: Database, partial: Path) -> None:
    if database.path is None:
        _copy_rows(database, partial)
        return
    with database.reading() as session:
        connection = session.connection().connection.driver_connection
        assert isinstance(connection, sqlite3.Connection)
        with closing(sqlite3.connect(partial)) as copy:
            connection.backup(copy)


def _copy_rows(database: Database, partial: Path) -> None:
    """Read a server's tables in one transaction into a new file."""
    copy = Database.open(partial, write=True, busy_timeout=30)
    try:
        upgrade_schema(copy)
        with database.reading() as source, copy.writing() as target:
            if database.engine.dialect.name == "postgresql":
                source.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            for table in Base.metadata.sorted_tables:
                if table.name == "tags" and not database.has_tags:
                    continue
                rows = source.execute(select(table).execution_options(yield_per=_ROWS))
                for part in rows.mappings().partitions():
                    target.execute(table.insert(), [dict(row) for row in part])
    finally:
        copy.close()


def _copy_files(partial: Path, folder: Path | None, vectors: Path) -> tuple[int, int]:
    files = total = 0
    with closing(sqlite3.connect(partial)) as connection, connection:
        rows = connection.execute(
            "SELECT sha256 FROM blobs WHERE data IS NULL ORDER BY sha256"
        ).fetchall()
        for (sha256,) in rows:
            assert folder is not None
            state = blobs.copy_file(blobs.file_of(folder, sha256), vectors, sha256)
            connection.execute(
                "UPDATE blobs SET mtime_ns = ?, inode = ? WHERE sha256 = ?",
                (state[1], state[2], sha256),
            )
            files, total = files + 1, total + state[0]
    return files, total
