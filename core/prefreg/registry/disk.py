"""What a registry takes on the disk."""

from pathlib import Path

from sqlalchemy import func, select, text

from prefreg.registry.opening import Database
from prefreg.registry.records import DiskUse
from prefreg.registry.schema import Base, BlobRow

_SERVER_SIZE = text("SELECT coalesce(sum(pg_total_relation_size(to_regclass(:name))), 0)")


def measure_disk(database: Database, folder: Path | None) -> DiskUse:
    """Add up the database and the vectors beside it.

    On a server other than PostgreSQL only the vectors are counted.

    Raises:
        RegistryError: The database failed.
    """
    if database.path is None:
        return DiskUse(_measure_server(database), 0, 0)
    sizes = [] if folder is None or not folder.is_dir() else _sizes(folder)
    return DiskUse(database.path.stat().st_size, len(sizes), sum(sizes))


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
