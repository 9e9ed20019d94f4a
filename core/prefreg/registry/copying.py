"""Copying a version into another registry: its bytes, its record and what was measured."""

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.names import check_names
from prefreg.registry.records import NewVersion, VersionRecord
from prefreg.registry.schema import AxisRow, BlobRow, VersionRow
from prefreg.registry.versions import append_measurement, find_row, insert_version, load_versions


@dataclass(frozen=True, slots=True)
class Copied:
    """A version in its new registry, and whether it had to be added."""

    record: VersionRecord
    added: bool


def new_version_of(record: VersionRecord, axis: str | None) -> NewVersion:
    """Describe a copy of a version; under another name it has no aliases of the axis."""
    return NewVersion(
        axis=axis or record.axis,
        axis_aliases=record.axis_aliases if axis in (None, record.axis) else (),
        kind=record.kind,  # type: ignore[arg-type]  # as a registry gave it
        dtype=record.dtype,  # type: ignore[arg-type]
        base=record.base,
        metadata=record.metadata,
        note=record.note,
        tags=record.tags,
    )


def find_copy(
    session: Session, record: VersionRecord, axis: str, *, renumber: bool
) -> VersionRecord | None:
    """Return the version that is this one already; None where it may be added.

    Raises:
        UsageError: The name is malformed.
        RegistryError: The number is another version's, or was used before.
    """
    check_names(session, axis, ())
    known = load_versions(session, AxisRow.name == axis, VersionRow.sha256 == record.sha256)
    same = [found for found in known if found.base.weights == record.base.weights]
    for found in sorted(same, key=lambda found: found.number != record.number):
        return found
    last = session.scalar(select(AxisRow.last_number).where(AxisRow.name == axis)) or 0
    if renumber or record.number > last:
        return None
    taken = load_versions(session, AxisRow.name == axis, VersionRow.number == record.number)
    state = "is a different version there" if taken else "was used or passed over there"
    raise RegistryError(
        f"{record} is not copied: {axis}@{record.number} {state}. "
        f"Use --renumber to give it the next number, {last + 1}."
    )


def insert_copy(
    session: Session,
    record: VersionRecord,
    axis: str,
    blob: BlobRow,
    now: datetime,
    *,
    renumber: bool,
) -> VersionRecord:
    """Add a copy with its measurements and the date of the original, under the write lock.

    Raises:
        RegistryError: A name belongs to another axis.
    """
    new = new_version_of(record, axis)
    number = None if renumber else record.number
    added = insert_version(session, new, blob, now, number=number, created=record.created)
    row = find_row(session, axis, added.number)
    for measurement in record.measurements:
        append_measurement(row, measurement)
    session.flush()
    return replace(added, measurements=record.measurements)
