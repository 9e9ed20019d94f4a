"""The bytes of a registry: checked, collected where nothing refers to them, and counted."""

from pathlib import Path

from sqlalchemy import Numeric, func, select, text
from sqlalchemy.orm import Session, undefer

from prefreg.errors import RegistryError, VectorError, one_line
from prefreg.registry.blobs import Folder, Place, reaching, read_source
from prefreg.registry.database import Database
from prefreg.registry.listing import load_versions
from prefreg.registry.records import DiskUse, GcReport, Problem
from prefreg.registry.schema import AxisRow, Base, BlobRow, VersionRow

_SERVER_SIZE = text("SELECT coalesce(sum(pg_total_relation_size(to_regclass(:name))), 0)")


def verify_registry(database: Database, place: Place) -> list[Problem]:
    """Check the database's structure and every vector against its hash.

    Each vector is read on its own, so that writers need not wait for the whole check.
    """
    with database.reading() as session:
        problems = _check_structure(session, database)
        problems += _check_rows(session, database)
        hashes = session.scalars(select(BlobRow.sha256).order_by(BlobRow.sha256)).all()
    for sha256 in hashes:
        problem = _check_blob(database, place, sha256)
        problems += [problem] if problem else []
    return problems


def collect_garbage(database: Database, place: Place, grace: float) -> GcReport:
    """Delete bytes without a row, and give free pages of the database back.

    The write lock is held while they are deleted: whoever adds makes sure under the same lock
    that its bytes are in place, so none are taken from under it. `grace` is for those who have
    put theirs in a store and wait for the lock.
    """
    with reaching(f"{database.location} cannot be collected"):
        held = place.held(grace)
        with database.writing() as session:
            needed = session.scalars(select(BlobRow.sha256).where(BlobRow.data.is_(None)))
            for sha256 in needed:
                held.pop(f"{sha256}.safetensors", None)
            files, freed = place.remove(held)
    return GcReport(files, freed + database.vacuum())


def measure_disk(database: Database, place: Place) -> DiskUse:
    """Add up the database and the vectors beside it.

    On a server other than PostgreSQL only the vectors are counted.
    """
    size = _measure_server(database) if database.path is None else database.path.stat().st_size
    if isinstance(place, Folder):
        sizes = _sizes(place.path) if place.path.is_dir() else []
    else:
        with database.reading() as session:  # without asking the store
            outside = BlobRow.mtime_ns.is_not(None)
            sizes = list(session.scalars(select(BlobRow.size).where(outside)))
    return DiskUse(size, len(sizes), sum(sizes))


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


def _check_blob(database: Database, place: Place, sha256: str) -> Problem | None:
    with database.reading() as session:
        row = session.get(BlobRow, sha256, options=[undefer(BlobRow.data)])
    if row is None:
        return None  # removed since
    try:
        with reaching(f"{database.location} cannot be verified"):
            read_source(row, place, rehash=True)
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
            return int(session.scalar(select(func.sum(BlobRow.size, type_=Numeric))) or 0)
        return sum(
            int(session.scalar(_SERVER_SIZE, {"name": table.name}) or 0)
            for table in Base.metadata.sorted_tables
        )
