"""What is done to a registry as a whole, or between two of them.

Search, tags, new names, copies, backups and the disk: functions on open stores, so that the store
itself stays what it is about.
"""

from collections.abc import Iterable
from pathlib import Path

from prefreg.errors import VectorError
from prefreg.registry import (
    backup,
    blobs,
    copying,
    disk,
    names,
    renaming,
    searching,
    tags,
    versions,
)
from prefreg.registry.listing import load_version
from prefreg.registry.records import DiskUse, VersionRecord
from prefreg.registry.store import Store


def search(store: Store, query: searching.Query) -> list[searching.Found]:
    """Return the versions that meet every condition of a query, ordered by axis and number."""
    with store.database.reading() as session:
        return searching.find_versions(session, query)


def tag(
    store: Store, axis: str, number: int, words: Iterable[str], *, remove: bool = False
) -> VersionRecord:
    """Give tags to a version, or take them away.

    Raises:
        UsageError: A tag is malformed.
        RegistryError: There is no such version.
    """
    with store.database.writing() as session:
        name = names.require_axis(session, axis, store.location)
        row = versions.find_row(session, name, number)
        tags.change_tags(session, row, words, remove=remove)
        return load_version(session, name, number)


def rename_axis(store: Store, old: str, new: str) -> str:
    """Rename an axis, whose old name becomes its alias; return the name it had.

    Raises:
        UsageError: The new name is malformed.
        RegistryError: There is no such axis, or the name is taken.
    """
    with store.database.writing() as session:
        name = names.require_axis(session, old, store.location)
        renaming.rename_axis(session, name, new)
        return name


def copy(
    store: Store,
    source: bytes | Path,
    record: VersionRecord,
    target: Store,
    *,
    axis: str | None = None,
    renumber: bool = False,
) -> copying.Copied:
    """Copy a version, whose bytes are at hand, into another registry.

    It keeps its number where that is free. A version with the same bytes on the same base is
    found again, not added twice.

    Raises:
        UsageError: The name is malformed.
        RegistryError: The number or a name is taken there, or the target cannot be written.
        VectorError: The bytes do not match their hash.
    """
    wanted = axis or record.axis
    with (
        blobs.stage(source, target.folder, target.inline_limit) as staged,
        target.database.writing() as session,
    ):
        if staged.sha256 != record.sha256:
            raise VectorError(
                f"The bytes of {record} do not match their hash, so it is not copied. "
                f"`prefreg verify --registry {store.location}` says more."
            )
        name = names.canonical_name(session, wanted) or wanted
        found = copying.find_copy(session, record, name, renumber=renumber)
        if found is not None:
            return copying.Copied(found, target.location, added=False)
        row = blobs.store(session, staged, target.folder)
        now = target.now()
        added = copying.insert_copy(session, record, name, row, now, renumber=renumber)
        return copying.Copied(added, target.location, added=True)


def back_up(store: Store, target: Path, *, overwrite: bool = False) -> backup.Backup:
    """Write a verified snapshot to an SQLite file, with its vectors beside it.

    Raises:
        RegistryError: The target is in the way, or the registry is damaged.
    """
    return backup.back_up(store.database, store.folder, target, overwrite=overwrite)


def disk_use(store: Store) -> DiskUse:
    """Say what a registry takes on the disk."""
    return disk.measure_disk(store.database, store.folder)
