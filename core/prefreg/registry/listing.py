"""From rows to records: versions with everything that hangs on them.

Each kind of thing takes one statement, whatever the number of versions. A listing never reads
metadata or bytes, which are nearly all of a registry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.aliases import standing_aliases
from prefreg.registry.bases import record_base
from prefreg.registry.records import BaseRecord, Measurement, VersionRecord, VersionSummary
from prefreg.registry.schema import (
    AxisAliasRow,
    AxisRow,
    BaseRow,
    BlobRow,
    MeasurementRow,
    TagRow,
    VersionRow,
)

Conditions = Sequence[ColumnElement[bool]]


def load_summaries(session: Session, *conditions: ColumnElement[bool]) -> list[VersionSummary]:
    """Return the versions that meet conditions on versions, axes and bases, in order."""
    return [summary for _, summary in _summaries(session, conditions)]


def load_versions(session: Session, *conditions: ColumnElement[bool]) -> list[VersionRecord]:
    """Return the full records of the versions that meet conditions, in order."""
    documents = dict(
        session.execute(_of_versions(select(VersionRow.id, VersionRow.document), conditions)).all()
    )
    measurements: dict[int, list[Measurement]] = {}
    for version, *values in session.execute(
        _of_versions(
            select(
                MeasurementRow.version_id,
                MeasurementRow.kind,
                MeasurementRow.value,
                MeasurementRow.protocol,
                MeasurementRow.created,
            ).join(VersionRow, VersionRow.id == MeasurementRow.version_id),
            conditions,
        ).order_by(MeasurementRow.id)
    ):
        measurements.setdefault(version, []).append(Measurement(*values))
    return [
        VersionRecord(
            **{field.name: getattr(summary, field.name) for field in fields(summary)},
            metadata=documents[version],
            measurements=tuple(measurements.get(version, ())),
        )
        for version, summary in _summaries(session, conditions)
    ]


def load_version(session: Session, axis: str, number: int) -> VersionRecord:
    """Return the full record of one version that is known to exist."""
    (record,) = load_versions(session, AxisRow.name == axis, VersionRow.number == number)
    return record


def _summaries(session: Session, conditions: Conditions) -> list[tuple[int, VersionSummary]]:
    rows = session.execute(
        select(
            VersionRow.id,
            VersionRow.axis_id,
            AxisRow.name.label("axis"),
            VersionRow.number,
            VersionRow.kind,
            VersionRow.dtype,
            VersionRow.sha256,
            VersionRow.base_id,
            VersionRow.base_name,
            VersionRow.base_revision,
            VersionRow.base_tokenizer,
            VersionRow.base_template,
            VersionRow.note,
        )
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(*conditions)
        .order_by(AxisRow.name, VersionRow.number)
    ).all()
    attached = _attach(session, conditions)
    return [(row.id, _summary(row, attached)) for row in rows]


@dataclass(frozen=True, slots=True)
class _Attached:
    """What hangs on versions, by their ids; aliases by axis and number."""

    created: dict[int, datetime]
    blobs: dict[str, tuple[int, bool]]
    """Size, and whether the bytes lie inside the database."""
    bases: dict[int, BaseRecord]
    aliases: dict[tuple[int, int], list[str]]
    axis_aliases: dict[int, list[str]]
    tags: dict[int, list[str]]


def _attach(session: Session, conditions: Conditions) -> _Attached:
    created = session.execute(_of_versions(select(VersionRow.id, VersionRow.created), conditions))
    blobs = select(BlobRow.sha256, BlobRow.size, BlobRow.mtime_ns.is_(None))
    axes: list[int] | None = None
    if conditions:
        hashes = _of_versions(select(VersionRow.sha256), conditions)
        blobs = blobs.where(BlobRow.sha256.in_(hashes))
        axes = list(
            session.scalars(_of_versions(select(VersionRow.axis_id).distinct(), conditions))
        )
    aliases: dict[tuple[int, int], list[str]] = {}
    for axis, _, alias, number in standing_aliases(session, axes):
        aliases.setdefault((axis, number), []).append(alias)
    return _Attached(
        created=dict(created.all()),
        blobs={sha256: (size, inline) for sha256, size, inline in session.execute(blobs)},
        bases={row.id: record_base(row) for row in session.scalars(select(BaseRow))},
        aliases=aliases,
        axis_aliases=_grouped(session, AxisAliasRow, AxisAliasRow.position, conditions),
        tags=_grouped(session, TagRow, TagRow.name, conditions)
        if session.info.get("has_tags", True)
        else {},
    )


def _of_versions(statement: Any, conditions: Conditions) -> Any:
    """Restrict a statement to versions that meet conditions on them, their axes and bases."""
    if not conditions:
        return statement
    return statement.join(VersionRow.axis).join(VersionRow.base).where(*conditions)


def _grouped(
    session: Session, table: Any, order: Any, conditions: Conditions
) -> dict[int, list[str]]:
    statement = select(table.version_id, table.name).order_by(table.version_id, order)
    if conditions:
        statement = statement.join(VersionRow, VersionRow.id == table.version_id)
        statement = _of_versions(statement, conditions)
    found: dict[int, list[str]] = {}
    for version, value in session.execute(statement):
        found.setdefault(version, []).append(value)
    return found


def _summary(row: Any, attached: _Attached) -> VersionSummary:
    if row.sha256 not in attached.blobs:  # foreign keys are off in other programs
        raise RegistryError(
            f"The registry is damaged: {row.axis}@{row.number} has lost the row of its "
            "bytes. Restore it from a backup."
        )
    size, inline = attached.blobs[row.sha256]
    return VersionSummary(
        axis=row.axis,
        number=row.number,
        axis_aliases=tuple(attached.axis_aliases.get(row.id, ())),
        aliases=tuple(sorted(attached.aliases.get((row.axis_id, row.number), ()))),
        kind=row.kind,
        dtype=row.dtype,
        sha256=row.sha256,
        size=size,
        inline=bool(inline),
        base=_base_as_it_was(row, attached.bases[row.base_id]),
        note=row.note,
        created=attached.created[row.id],
        tags=tuple(attached.tags.get(row.id, ())),
    )


def _base_as_it_was(row: Any, seen: BaseRecord) -> BaseRecord:
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
