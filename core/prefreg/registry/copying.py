"""Copying a version into another registry: its bytes, its record and what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.listing import load_summaries, load_version, of_axis, on_base
from prefreg.registry.names import check_names
from prefreg.registry.records import NewVersion, VersionRecord, VersionSummary
from prefreg.registry.schema import AxisRow, BlobRow, VersionRow
from prefreg.registry.versions import append_measurement, find_row, insert_version


@dataclass(frozen=True, slots=True)
class Copied:
    """A version in its new registry, and whether it had to be added."""

    record: VersionRecord
    registry: str
    """Where it is now, without a password."""
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
    same = [
        known.number
        for known in load_summaries(
            session,
            of_axis(axis),
            on_base(record.base.weights),
            VersionRow.sha256 == record.sha256,
        )
    ]
    if same:
        return load_version(session, axis, record.number if record.number in same else same[0])
    last = session.scalar(select(AxisRow.last_number).where(AxisRow.name == axis)) or 0
    if renumber or record.number > last:
        return None
    taken = load_summaries(session, of_axis(axis), VersionRow.number == record.number)
    state = f"is a different version there{_told(taken)}" if taken else "was used before there"
    raise RegistryError(
        f"{record} is not copied: {axis}@{record.number} {state}. "
        f"Use --renumber to give it the next number, {last + 1}."
    )


def _told(taken: Sequence[VersionSummary]) -> str:
    (version,) = taken
    return f" ({version.sha256[:12]}, on {version.base.name})"


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
    added = insert_version(
        session, new, blob, now, number=number, created=record.created, seen=False
    )
    row = find_row(session, axis, added.number)
    for measurement in record.measurements:
        append_measurement(row, measurement)
    session.flush()
    return replace(added, measurements=record.measurements)
