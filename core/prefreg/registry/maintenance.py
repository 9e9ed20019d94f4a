"""The bytes of a registry: checked, collected where nothing refers to them, and counted."""

from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, undefer

from prefreg.errors import RegistryError, VectorError, one_line
from prefreg.registry.blobs import read_source, remove_unreferenced
from prefreg.registry.database import Database
from prefreg.registry.listing import load_versions
from prefreg.registry.records import DiskUse, GcReport, Problem
from prefreg.registry.schema import AxisRow, Base, BlobRow, VersionRow

_SERVER_SIZE = text("SELECT coalesce(sum(pg_total_relation_size(to_regclass(:name))), 0)")


def verify_registry(database: Database, folder: Path | None) -> list[Problem]:
    """Check the database's structure and every vector against its hash.

    Each vector is read on its own, so that writers need not wait for the whole check.
    """
    with database.reading() as session:
        problems = _check_structure(session, database)
        problems += _check_rows(session, database)
        hashes = session.scalars(select(BlobRow.sha256).order_by(BlobRow.sha256)).all()
    for sha256 in hashes:
        problem = _check_blob(database, folder, sha256)
        problems += [problem] if problem else []
    return problems


def collect_garbage(database: Database, folder: Path | None) -> GcReport:
    """Delete files without a row, and give free pages of the database back.

    The write lock is held while files are deleted: whoever adds renames its file into place
    under the same lock, so no file is taken from under it.
    """
    files = freed = 0
    with database.writing() as session:
        external = session.scalars(select(BlobRow.sha256).where(BlobRow.data.is_(None)))
        if folder is not None:
            files, freed = remove_unreferenced(folder, frozenset(external))
    return GcReport(files, freed + database.vacuum())


def measure_disk(database: Database, folder: Path | None) -> DiskUse:
    """Add up the database and the vectors beside it.

    On a server other than PostgreSQL only the vectors are counted.
    """
    if database.path is None:
        return DiskUse(_measure_server(database), 0, 0)
    sizes = [] if folder is None or not folder.is_dir() else _sizes(folder)
    return DiskUse(database.path.stat().st_size, len(sizes), sum(sizes))


def _check_structure(session: Session, database: Database) -> list[Problem]:
    if database.path is None:
        return []
    problems = [
        Problem(one_line(str(line)), database.location, "Restore it from a backup.")
        for line in session.scalars(text("PRAGMA integrity_check"))
        if line != "ok"
    ]
    for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
        problems.append(
            Problem(
                f"row {row} of table {table} refers to a missing row of {parent}",
                database.location,
                "Restore it from a backup.",
            )
        )
    return problems


def _check_rows(session: Session, database: Database) -> list[Problem]:
    try:
        load_versions(session)
    except RegistryError as error:
        return [Problem(str(error), database.location, "Until then its versions are out of reach.")]
    return []


def _check_blob(database: Database, folder: Path | None, sha256: str) -> Problem | None:
    with database.reading() as session:
        row = session.get(BlobRow, sha256, options=[undefer(BlobRow.data)])
    if row is None:
        return None  # removed since
    try:
        read_source(row, folder, rehash=True)
    except VectorError as error:
        with database.reading() as session:
            versions = session.execute(
                select(AxisRow.name, VersionRow.number)
                .join(VersionRow.axis)
                .where(VersionRow.sha256 == sha256)
                .order_by(AxisRow.name, VersionRow.number)
            ).all()
        if not versions:
            return None  # removed, and collected, while it was read
        return Problem(
            str(error),
            ", ".join(f"{axis}@{number}" for axis, number in versions),
            "Restore it from a backup, add the same vector again, or remove the version.",
        )
    return None


def _sizes(folder: Path) -> list[int]:
    sizes = []
    for path in folder.iterdir():
        try:
            sizes.append(path.lstat().st_size)
        except FileNotFoundError:
            continue  # collected, or renamed into place, meanwhile
    return sizes


def _measure_server(database: Database) -> int:
    with database.reading() as session:
        if database.engine.dialect.name != "postgresql":
            return session.scalar(select(func.sum(BlobRow.size))) or 0
        return sum(
            int(session.scalar(_SERVER_SIZE, {"name": table.name}) or 0)
            for table in Base.metadata.sorted_tables
        )
