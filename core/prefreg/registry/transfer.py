"""From one registry to another: a backup of the whole, and copies of single versions."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, func, select

from prefreg.config import is_starter
from prefreg.errors import RegistryError, VectorError
from prefreg.files import beside, mark_beside, remove_abandoned, sync, try_lock
from prefreg.registry import maintenance, names
from prefreg.registry.access import Access
from prefreg.registry.blobs import Folder, blob_folder
from prefreg.registry.database import Database, check_schema, upgrade_schema
from prefreg.registry.names import check_axis_name
from prefreg.registry.places import BLOBS
from prefreg.registry.records import INLINE_LIMIT, Copied, VersionRecord
from prefreg.registry.schema import Base, BlobRow, SettingRow, VersionRow
from prefreg.registry.store import Store
from prefreg.registry.versions import find_copy

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


def back_up(store: Store, target: Path, *, overwrite: bool = False) -> Backup:
    """Write a snapshot of a registry to an SQLite file, with its vectors beside it.

    It is consistent although others may write meanwhile. The file appears whole and verified, or
    not at all; what it replaces is kept until then.
    """
    target = target.resolve()
    _check_target(store.database, target, overwrite=overwrite)
    try:
        with _partial_file(target) as partial:
            return _write(store, partial, target)
    except (OSError, sqlite3.Error) as error:
        place = getattr(error, "filename", None) or target
        raise RegistryError(
            f"The backup {target} cannot be written ({place}: "
            f"{getattr(error, 'strerror', error)}). Check the folder and the free space."
        ) from error


def copy_version(
    access: Access,
    reference: tuple[str, str | None],
    target: str | Path,
    *,
    name: str | None = None,
    renumber: bool = False,
) -> Copied:
    """Copy a version; a target that is missing is created, once there is something to copy."""
    if name is not None:
        check_axis_name(name)
    with access.reading() as source:
        record = source.resolve(*reference)
        data = source.vector_source(record)
        with Access(target, access.starter).writing() as destination:
            return destination.take(record, data, axis=name, renumber=renumber)


def check_copies(store: Store, records: Iterable[VersionRecord], *, renumber: bool) -> None:
    """Refuse versions that `Store.take` would refuse for their numbers or names, before the first.

    Raises:
        RegistryError: A number or a name means something else here.
    """
    with store.database.reading() as session:
        for record in records:
            name = names.canonical_name(session, record.axis) or record.axis
            aliases = record.axis_aliases if name == record.axis else ()
            if find_copy(session, record, name, renumber=renumber) is None:
                names.check_names(session, name, aliases)


def _check_target(database: Database, target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise RegistryError(f"The folder {target.parent} does not exist. Create it first.")
    if not target.exists():
        # The journal of a database that is gone would be played back into the backup.
        target.with_name(f"{target.name}-journal").unlink(missing_ok=True)
        return
    if is_starter(target):
        raise RegistryError(f"{target} ships with prefreg and is only read. Name another file.")
    if database.path is not None and target.samefile(database.path):
        raise RegistryError(f"{target} is the registry itself. Name another file for the backup.")
    if not overwrite:
        raise RegistryError(f"{target} exists. Name another file, or use --overwrite.")
    # Only a registry is replaced: a slip of the finger must not cost another file.
    present = Database.open(target, write=False, busy_timeout=30)
    try:
        check_schema(present)
    finally:
        present.close()


@contextmanager
def _partial_file(target: Path) -> Iterator[Path]:
    """Name the file to write to before it becomes the target; one backup to a target at a time."""
    remove_abandoned(target.parent, target.name)
    partial = beside(target)
    # The mark is locked, not the database: on network homes that would be SQLite's own lock.
    mark = mark_beside(target)
    lock = try_lock(mark)
    if lock is None:
        raise RegistryError(
            f"Another backup to {target} is under way. Wait for it, or name another file."
        )
    try:
        yield partial
    finally:
        _remove_database(partial)
        mark.unlink(missing_ok=True)
        os.close(lock)


def _remove_database(path: Path) -> None:
    for leftover in (path.with_name(f"{path.name}-journal"), path):
        leftover.unlink(missing_ok=True)


def _write(store: Store, partial: Path, target: Path) -> Backup:
    vectors = Folder(blob_folder(target), INLINE_LIMIT)
    copied: list[Path] = []
    try:
        needed, size = _snapshot_with_files(store, partial, vectors, copied)
        versions = _check_snapshot(store, partial, vectors)
        sync(partial)
        size += partial.stat().st_size
        os.replace(partial, target)
    except BaseException:
        if partial.exists():  # else it has become the target, which needs them
            _remove_copies(copied, vectors)
        raise
    sync(target.parent)
    kept = {vectors.file(sha256).name for sha256 in needed}
    held = vectors.held(0).items()
    vectors.remove({name: size for name, size in held if name not in kept})  # of the one before
    return Backup(target, versions, len(needed), size)


def _remove_copies(copied: list[Path], vectors: Folder) -> None:
    for path in copied:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or it holds another backup's vectors
        vectors.path.rmdir()


def _snapshot_with_files(
    store: Store, partial: Path, vectors: Folder, copied: list[Path]
) -> tuple[frozenset[str], int]:
    for _ in range(_ATTEMPTS):
        _remove_database(partial)
        _snapshot(store.database, partial)
        try:
            return _copy_files(partial, store, vectors, copied)
        except VectorError as error:
            # Removed and collected after the snapshot was taken: the next one is without it.
            lost = error
    raise RegistryError(
        f"For one vector, {lost}, so {store.location} cannot be backed up. "
        "`prefreg verify` says which versions need it."
    ) from lost


def _check_snapshot(store: Store, partial: Path, vectors: Folder) -> int:
    """Verify a snapshot before it appears; return the number of its versions."""
    snapshot = Database.open(partial, write=False, busy_timeout=30)
    try:
        check_schema(snapshot)
        problems = maintenance.verify_registry(snapshot, vectors)
        if problems:
            raise RegistryError(
                f"{store.location} is damaged, so no backup was made: {problems[0]}"
            )
        with snapshot.reading() as session:
            return session.scalar(select(func.count(VersionRow.id))) or 0
    finally:
        snapshot.close()


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
            for table in Base.metadata.sorted_tables:
                if table.name in database.lacks:
                    continue
                # A row of blobs may hold hundreds of megabytes: one at a time.
                at_once = 1 if table is BlobRow.__table__ else _ROWS
                rows = source.execute(select(table).execution_options(yield_per=at_once))
                for part in rows.mappings().partitions():
                    target.execute(table.insert(), [dict(row) for row in part])
    finally:
        copy.close()


def _copy_files(
    partial: Path, store: Store, vectors: Folder, copied: list[Path]
) -> tuple[frozenset[str], int]:
    """Copy the files that a snapshot needs; return their hashes and the sum of their sizes."""
    needed, total = set(), 0
    snapshot = Database.open(partial, write=True, busy_timeout=30)
    try:
        check_schema(snapshot)
        with snapshot.writing() as session:
            if SettingRow.__tablename__ not in snapshot.lacks:
                session.execute(delete(SettingRow).where(SettingRow.name == BLOBS))
            outside = select(BlobRow).where(BlobRow.data.is_(None)).order_by(BlobRow.sha256)
            for row in session.scalars(outside).all():
                path = vectors.file(row.sha256)
                if not path.exists():
                    copied.append(path)
                source = store.place.source(row, rehash=False)
                size, row.mtime_ns, row.inode = vectors.fetch(source, row.sha256)
                total += size
                needed.add(row.sha256)
    finally:
        snapshot.close()
    return frozenset(needed), total
