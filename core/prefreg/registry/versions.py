"""Adding, reading and removing versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, joinedload

from prefreg.errors import RegistryError
from prefreg.registry.aliases import aliases_of, drop_aliases_of
from prefreg.registry.bases import keep_base, record_base
from prefreg.registry.names import check_names, require_number
from prefreg.registry.records import BaseRecord, Measurement, NewVersion, VersionRecord
from prefreg.registry.schema import (
    AliasEventRow,
    AxisAliasRow,
    AxisRow,
    BaseRow,
    BlobRow,
    MeasurementRow,
    TagRow,
    VersionRow,
)
from prefreg.registry.tags import change_tags


def load_versions(session: Session, *conditions: ColumnElement[bool]) -> list[VersionRecord]:
    """Return the versions that meet conditions on versions, axes and bases, in order."""
    rows = session.scalars(
        select(VersionRow)
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(*conditions)
        .options(
            joinedload(VersionRow.axis),
            joinedload(VersionRow.base),
            joinedload(VersionRow.blob),
        )
        .order_by(AxisRow.name, VersionRow.number)
        .execution_options(populate_existing=True)
    ).all()
    # One statement for each of these, whatever the number of versions.
    attached = _Attached(
        _pointing_aliases(session, {row.axis_id for row in rows}),
        _grouped(session, AxisAliasRow.name, AxisAliasRow, AxisAliasRow.position, conditions),
        _grouped(session, MeasurementRow, MeasurementRow, MeasurementRow.id, conditions),
        _grouped(session, TagRow.name, TagRow, TagRow.name, conditions)
        if session.info.get("has_tags", True)
        else {},
    )
    return [_record(row, attached) for row in rows]


@dataclass(frozen=True, slots=True)
class _Attached:
    """What hangs on versions, by their ids; aliases by axis and number."""

    aliases: dict[tuple[int, int], list[str]]
    axis_aliases: dict[int, list[Any]]
    measurements: dict[int, list[Any]]
    tags: dict[int, list[Any]]


def _grouped(
    session: Session, wanted: Any, table: Any, order: Any, conditions: Sequence[Any]
) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for version, value in session.execute(
        select(table.version_id, wanted)
        .select_from(table)
        .join(VersionRow, VersionRow.id == table.version_id)
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(*conditions)
        .order_by(table.version_id, order)
    ):
        found.setdefault(version, []).append(value)
    return found


def _pointing_aliases(session: Session, axes: set[int]) -> dict[tuple[int, int], list[str]]:
    events = select(
        AliasEventRow.axis_id, AliasEventRow.base_id, AliasEventRow.alias, AliasEventRow.number
    ).order_by(AliasEventRow.id)
    if len(axes) == 1:
        events = events.where(AliasEventRow.axis_id.in_(axes))
    current = {(axis, base, alias): number for axis, base, alias, number in session.execute(events)}
    found: dict[tuple[int, int], list[str]] = {}
    for (axis, _, alias), number in sorted(current.items()):
        if number is not None:
            found.setdefault((axis, number), []).append(alias)
    return found


def load_version(session: Session, axis: str, number: int) -> VersionRecord:
    """Return one version that is known to exist."""
    (record,) = load_versions(session, AxisRow.name == axis, VersionRow.number == number)
    return record


def find_row(session: Session, axis: str, number: int) -> VersionRow:
    """Return the row of a version, for a change to it.

    Raises:
        RegistryError: There is no such version.
    """
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
) -> VersionRecord:
    """Give a version the next number of its axis, or a free one, under the write lock.

    Raises:
        UsageError: A name is malformed.
        RegistryError: A name belongs to another axis.
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
        base=keep_base(session, new.base, now),
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

    Raises:
        RegistryError: There is no such version, or an alias points to it.
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


def _record(row: VersionRow, attached: _Attached) -> VersionRecord:
    if row.blob is None:  # foreign keys are off in other programs
        raise RegistryError(
            f"The registry is damaged: {row.axis.name}@{row.number} has lost the row of its "
            "bytes. Restore it from a backup."
        )
    return VersionRecord(
        axis=row.axis.name,
        number=row.number,
        axis_aliases=tuple(attached.axis_aliases.get(row.id, ())),
        aliases=tuple(sorted(attached.aliases.get((row.axis_id, row.number), ()))),
        kind=row.kind,
        dtype=row.dtype,
        sha256=row.sha256,
        size=row.blob.size,
        base=_base_as_it_was(row, row.base),
        note=row.note,
        metadata=row.document,
        created=row.created,
        measurements=tuple(
            Measurement(entry.kind, entry.value, entry.protocol, entry.created)
            for entry in attached.measurements.get(row.id, ())
        ),
        tags=tuple(attached.tags.get(row.id, ())),
    )


def _base_as_it_was(row: VersionRow, base: BaseRow) -> BaseRecord:
    seen = record_base(base)
    return BaseRecord(
        name=row.base_name,
        revision=row.base_revision,
        path=seen.path,
        weights=seen.weights,
        tokenizer=row.base_tokenizer,
        template=row.base_template,
        parameters=seen.parameters,
        dtype=seen.dtype,
        created=seen.created,
    )
