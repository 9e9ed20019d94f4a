"""From rows to records: versions with everything that hangs on them, all or those of a query.

Each kind of thing takes one statement, whatever the number of versions. A listing never reads
metadata or bytes, which are nearly all of a registry.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError, UsageError
from prefreg.registry.known_bases import record_base
from prefreg.registry.names import check_tags, standing_aliases
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
"""What versions must meet, by columns of their own table alone."""

MANY = 1000
"""Of so many versions whole tables are read: looking each up would take longer."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_METRIC = re.compile(
    r"\s*([^<>=\s]+)\s*(>=|<=|==|>|<|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)


def of_axis(name: str) -> ColumnElement[bool]:
    """Ask for the versions of an axis."""
    return VersionRow.axis_id == select(AxisRow.id).where(AxisRow.name == name).scalar_subquery()


def on_base(weights: str) -> ColumnElement[bool]:
    """Ask for the versions on a base."""
    base = select(BaseRow.id).where(BaseRow.weights == weights)
    return VersionRow.base_id == base.scalar_subquery()


def load_summaries(session: Session, *conditions: ColumnElement[bool]) -> list[VersionSummary]:
    """Return the versions that meet conditions, ordered by axis and number."""
    return [summary for _, summary in _summaries(session, conditions)]


def load_versions(session: Session, *conditions: ColumnElement[bool]) -> list[VersionRecord]:
    """Return the full records of the versions that meet conditions, ordered alike."""
    rows = session.execute(select(VersionRow.id, VersionRow.document).where(*conditions))
    documents = {version: document for version, document in rows}
    measurements: dict[int, list[Measurement]] = {}
    for version, *values in session.execute(
        _attached_to(
            select(
                MeasurementRow.version_id,
                MeasurementRow.kind,
                MeasurementRow.value,
                MeasurementRow.protocol,
                MeasurementRow.created,
            ).order_by(MeasurementRow.id),
            MeasurementRow,
            conditions,
        )
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
    (record,) = load_versions(session, of_axis(axis), VersionRow.number == number)
    return record


@dataclass(frozen=True, slots=True)
class MetricCondition:
    """A bound on a number."""

    name: str
    operator: str
    bound: float

    def find(self, record: VersionRecord) -> dict[str, float]:
        """Return the numbers of this name in the record that meet the bound, by their paths."""
        holds = _OPERATORS[self.operator]
        suffix = f".{self.name}"
        return {
            path: value
            for path, value in _numbers_of(record)
            if (path == self.name or path.endswith(suffix)) and holds(value, self.bound)
        }


def parse_metric(text: str) -> MetricCondition:
    """Read `NAME>=0.7`."""
    found = _METRIC.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r} is no condition on a metric: write NAME, one of >=, <=, >, <, =, "
            "then a number, as in 'accuracy>=0.7'."
        )
    return MetricCondition(found[1], found[2], float(found[3]))


@dataclass(frozen=True, slots=True)
class Query:
    """What a version must have; every given condition must hold."""

    text: str | None = None
    """Words that all occur in its name, aliases, tags, note or base, in upper or lower case."""
    tags: Sequence[str] = ()
    note: str | None = None
    """Words that all occur in the note."""
    base: str | None = None
    """Part of the base's name, or the beginning of its fingerprint."""
    metrics: Sequence[MetricCondition] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A version that meets a query, and the numbers that met its bounds."""

    version: VersionSummary
    metrics: Mapping[str, float]


def find_versions(session: Session, query: Query) -> list[Found]:
    """Return the versions that meet a query, ordered by axis and number."""
    tags = check_tags(query.tags)
    if tags and "tags" in session.info.get("lacks", ()):
        return []  # a registry that is older than tags
    tagged = [
        VersionRow.id.in_(select(TagRow.version_id).where(TagRow.name == tag)) for tag in tags
    ]
    if not query.metrics:
        summaries = load_summaries(session, *tagged)
        return [Found(version, {}) for version in summaries if _matches(version, query)]
    found = []
    for record in load_versions(session, *tagged):
        metrics = [condition.find(record) for condition in query.metrics]
        if all(metrics) and _matches(record, query):
            found.append(Found(record, {k: v for each in metrics for k, v in each.items()}))
    return found


def _summaries(session: Session, conditions: Conditions) -> list[tuple[int, VersionSummary]]:
    rows = session.execute(
        select(
            VersionRow.id,
            VersionRow.axis_id,
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
        ).where(*conditions)
    ).all()
    attached = _attach(session, conditions if len(rows) < MANY else ())
    starter = session.info.get("starter", False)
    found = [(row.id, _summary(row, attached, starter=starter)) for row in rows]
    return sorted(found, key=lambda pair: (pair[1].axis, pair[1].number))


@dataclass(frozen=True, slots=True)
class _Attached:
    """What hangs on versions, by their ids; names by axis, aliases by axis and number."""

    axes: dict[int, str]
    bases: "_Bases"
    created: dict[int, datetime]
    blobs: dict[str, tuple[int, bool]]
    """Size, and whether the bytes lie inside the database."""
    aliases: dict[tuple[int, int], list[str]]
    axis_aliases: dict[int, list[str]]
    tags: dict[int, list[str]]


def _attach(session: Session, conditions: Conditions) -> _Attached:
    created = session.execute(select(VersionRow.id, VersionRow.created).where(*conditions))
    blobs = select(BlobRow.sha256, BlobRow.size, BlobRow.mtime_ns.is_(None))
    axes: list[int] | None = None
    if conditions:
        blobs = blobs.where(BlobRow.sha256.in_(select(VersionRow.sha256).where(*conditions)))
        axes = list(session.scalars(select(VersionRow.axis_id).distinct().where(*conditions)))
    aliases: dict[tuple[int, int], list[str]] = {}
    for axis, _, alias, number in standing_aliases(session, axes):
        aliases.setdefault((axis, number), []).append(alias)
    return _Attached(
        axes=dict(session.execute(select(AxisRow.id, AxisRow.name)).all()),
        bases=_Bases(session),
        created=dict(created.all()),
        blobs={sha256: (size, inline) for sha256, size, inline in session.execute(blobs)},
        aliases=aliases,
        axis_aliases=_grouped(session, AxisAliasRow, [AxisAliasRow.position], conditions),
        tags={}
        if "tags" in session.info.get("lacks", ())
        else _grouped(session, TagRow, [], conditions),
    )


def _attached_to(statement: Any, table: Any, conditions: Conditions) -> Any:
    if not conditions:
        return statement
    return statement.where(table.version_id.in_(select(VersionRow.id).where(*conditions)))


def _grouped(
    session: Session, table: Any, order: list[Any], conditions: Conditions
) -> dict[int, list[str]]:
    """Return the names in a table, in order, by the versions that they hang on."""
    columns = select(table.version_id, *order, table.name)
    rows = [tuple(row) for row in session.execute(_attached_to(columns, table, conditions))]
    if any(None in row for row in rows):
        raise RegistryError(
            f"The registry holds a damaged row of {table.__tablename__} (without a value). "
            "Restore it from a backup."
        )
    found: dict[int, list[str]] = {}
    # Sorted here: in the order of its index, the database looks each row up on its own.
    for version, *_, name in sorted(rows):
        found.setdefault(version, []).append(name)
    return found


def _summary(row: Any, attached: _Attached, *, starter: bool) -> VersionSummary:
    axis, base = attached.axes.get(row.axis_id), attached.bases.as_it_was(row)
    if axis is None or base is None or row.sha256 not in attached.blobs:
        # Foreign keys are off in other programs.
        lost = "axis" if axis is None else "base" if base is None else "bytes"
        raise RegistryError(
            f"The registry is damaged: {axis or 'version'}@{row.number} has lost the row of its "
            f"{lost}. Restore it from a backup."
        )
    size, inline = attached.blobs[row.sha256]
    return VersionSummary(
        axis=axis,
        number=row.number,
        axis_aliases=tuple(attached.axis_aliases.get(row.id, ())),
        aliases=tuple(sorted(attached.aliases.get((row.axis_id, row.number), ()))),
        kind=row.kind,
        dtype=row.dtype,
        sha256=row.sha256,
        size=size,
        inline=bool(inline),
        base=base,
        note=row.note,
        created=attached.created[row.id],
        tags=tuple(attached.tags.get(row.id, ())),
        starter=starter,
    )


class _Bases:
    """Bases as they were when a version was added, each made once."""

    def __init__(self, session: Session) -> None:
        self._seen = {row.id: record_base(row) for row in session.scalars(select(BaseRow))}
        self._made: dict[tuple[Any, ...], BaseRecord] = {}

    def as_it_was(self, row: Any) -> BaseRecord | None:
        """Return the base of a version, at the place where it was last seen."""
        seen = self._seen.get(row.base_id)
        if seen is None:
            return None
        then = (row.base_name, row.base_revision, row.base_tokenizer, row.base_template)
        key = (row.base_id, *then)
        if key not in self._made:
            name, revision, tokenizer, template = then
            self._made[key] = replace(
                seen, name=name, revision=revision, tokenizer=tokenizer, template=template
            )
        return self._made[key]


def _numbers_of(record: VersionRecord) -> Iterator[tuple[str, float]]:
    """Return every number of a version with its dotted path."""
    yield from _numbers(record.metadata, "")
    for measurement in record.measurements:
        yield from _numbers(measurement.value, measurement.kind)


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _matches(version: VersionSummary, query: Query) -> bool:
    everything = " ".join(
        (
            str(version),
            *version.axis_aliases,
            *version.aliases,
            *version.tags,
            version.note or "",
            version.base.name,
        )
    )
    base = (query.base or "").casefold()
    return (
        _has_words(everything, query.text)
        and _has_words(version.note or "", query.note)
        and (base in version.base.name.casefold() or version.base.weights.startswith(base))
    )


def _has_words(text: str, words: str | None) -> bool:
    return all(word in text.casefold() for word in (words or "").casefold().split())
