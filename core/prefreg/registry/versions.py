"""Adding and removing versions, and appending to them."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.aliases import aliases_of, drop_aliases_of
from prefreg.registry.known_bases import keep_base
from prefreg.registry.listing import load_version
from prefreg.registry.names import change_tags, check_names
from prefreg.registry.records import Measurement, NewVersion, VersionRecord
from prefreg.registry.schema import AxisAliasRow, AxisRow, BlobRow, MeasurementRow, VersionRow
from prefreg.registry.selection import require_number


def count_versions(session: Session) -> dict[str, int]:
    """Return the number of versions of every axis that has one, by name."""
    rows = session.execute(
        select(AxisRow.name, func.count())
        .select_from(VersionRow)
        .join(VersionRow.axis)
        .group_by(AxisRow.name)
        .order_by(AxisRow.name)
    )
    return {axis: count for axis, count in rows}


def find_row(session: Session, axis: str, number: int) -> VersionRow:
    """Return the row of a version, for a change to it."""
    require_number(session, axis, number)
    return session.scalars(
        select(VersionRow)
        .join(VersionRow.axis)
        .where(AxisRow.name == axis, VersionRow.number == number)
    ).one()


def insert_version(
    session: Session,
    new: NewVersion,
    blob: BlobRow,
    now: datetime,
    *,
    number: int | None = None,
    created: datetime | None = None,
    seen: bool = True,
) -> VersionRecord:
    """Give a version the next number of its axis, or a free one, under the write lock.

    `seen` says whether its base was at hand just now, under the name and at the place it gives.
    """
    aliases = check_names(session, new.axis, new.axis_aliases)
    axis = session.scalar(select(AxisRow).where(AxisRow.name == new.axis).with_for_update())
    if axis is None:
        axis = AxisRow(name=new.axis, last_number=0)
        session.add(axis)
    axis.last_number = axis.last_number + 1 if number is None else number
    version = VersionRow(
        axis=axis,
        number=axis.last_number,
        kind=new.kind,
        dtype=new.dtype,
        blob=blob,
        base=keep_base(session, new.base, now, seen=seen),
        base_name=new.base.name,
        base_revision=new.base.revision,
        base_tokenizer=new.base.tokenizer,
        base_template=new.base.template,
        note=new.note,
        document=new.metadata,
        created=created or now,
        axis_aliases=[
            AxisAliasRow(position=position, name=alias) for position, alias in enumerate(aliases)
        ],
    )
    session.add(version)
    session.flush()
    change_tags(session, version, new.tags, remove=False)
    return load_version(session, new.axis, version.number)


def delete_version(session: Session, axis: str, number: int, *, force: bool, now: datetime) -> None:
    """Delete a version, and its bytes' row where no other version has the same bytes.

    A file stays for the collector: deleting it here could hit a process that just added
    equal bytes, or leave a row without bytes after a crash.
    """
    version = find_row(session, axis, number)
    aliases = aliases_of(session, axis, number)
    if aliases and not force:
        raise RegistryError(
            f"{axis}@{number} is not removed: the alias {', '.join(map(repr, aliases))} "
            "points to it. Move or delete the alias first, or use --force."
        )
    drop_aliases_of(session, version, aliases, now)
    sha256 = version.sha256
    session.delete(version)
    session.flush()
    if session.scalar(select(VersionRow.id).where(VersionRow.sha256 == sha256).limit(1)) is None:
        session.delete(session.get_one(BlobRow, sha256))


def append_measurement(version: VersionRow, measurement: Measurement) -> None:
    """Add what was learned about a version."""
    version.measurements.append(
        MeasurementRow(
            kind=measurement.kind,
            value=measurement.value,
            protocol=measurement.protocol,
            created=measurement.created,
        )
    )
