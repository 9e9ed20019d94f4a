"""What is done to a registry as a whole, or between two of them.

Search, tags, new names, copies, backups and the disk: functions on open stores, so that the store
itself stays what it is about.
"""

from collections.abc import Iterable
from pathlib import Path

from prefreg.errors import VectorError
from prefreg.registry import blobs, listing, maintenance, names, transfer, versions
from prefreg.registry.access import Access
from prefreg.registry.listing import load_version
from prefreg.registry.names import check_axis_name
from prefreg.registry.records import DiskUse, VersionRecord
from prefreg.registry.store import Store
from prefreg.registry.transfer import Copied


def search(store: Store, query: listing.Query) -> list[listing.Found]:
    """Return the versions that meet every condition of a query, ordered by axis and number."""
    with store.database.reading() as session:
        return listing.find_versions(session, query)


def tag(
    store: Store, axis: str, number: int, words: Iterable[str], *, remove: bool = False
) -> VersionRecord:
    """Give tags to a version, or take them away."""
    with store.database.writing() as session:
        name = names.require_axis(session, axis, store.location)
        row = versions.find_row(session, name, number)
        names.change_tags(session, row, words, remove=remove)
        return load_version(session, name, number)


def rename_axis(store: Store, old: str, new: str) -> str:
    """Rename an axis, whose old name becomes its alias; return the name it had."""
    with store.database.writing() as session:
        name = names.require_axis(session, old, store.location)
        names.rename_axis(session, name, new)
        return name


def copy(
    store: Store,
    source: bytes | Path,
    record: VersionRecord,
    target: Store,
    *,
    axis: str | None = None,
    renumber: bool = False,
) -> transfer.Copied:
    """Copy a version, whose bytes are at hand, into another registry.

    It keeps its number where that is free. A version with the same bytes on the same base is
    found again, not added twice.
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
        found = transfer.find_copy(session, record, name, renumber=renumber)
        if found is not None:
            return transfer.Copied(found, target.location, added=False)
        row = blobs.store(session, staged, target.folder)
        now = target.now()
        added = transfer.insert_copy(session, record, name, row, now, renumber=renumber)
        return transfer.Copied(added, target.location, added=True)


def back_up(store: Store, target: Path, *, overwrite: bool = False) -> transfer.Backup:
    """Write a verified snapshot to an SQLite file, with its vectors beside it."""
    return transfer.back_up(store.database, store.folder, target, overwrite=overwrite)


def disk_use(store: Store) -> DiskUse:
    """Say what a registry takes on the disk."""
    return maintenance.measure_disk(store.database, store.folder)


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
        with Store.open(target, write=True) as destination:
            return copy(source, data, record, destination, axis=name, renumber=renumber)
