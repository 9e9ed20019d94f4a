"""Versions: which one a reference means, now or at a moment; adding, removing, appending to one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import Function

from prefreg.errors import NotStoredError, RegistryError, did_you_mean
from prefreg.registry.known_bases import describe_base, keep_base
from prefreg.registry.listing import load_summaries, load_version, of_axis, on_base
from prefreg.registry.names import (
    aliases_of,
    change_tags,
    check_names,
    current_aliases,
    drop_aliases_of,
    read_history,
)
from prefreg.registry.records import (
    FORM_OF,
    Measurement,
    NewVersion,
    VersionRecord,
    VersionSummary,
    describe_moment,
)
from prefreg.registry.schema import (
    AxisAliasRow,
    AxisRow,
    BaseRow,
    BlobRow,
    MeasurementRow,
    TagRow,
    VersionRow,
)

_LONGEST_NUMBER = 18
"""Digits that a message shows of a number."""
_LARGEST_NUMBER = 2**31 - 1
"""Of a column of whole numbers on a server."""


@dataclass(frozen=True, slots=True)
class Known:
    """As little of a version as choosing one takes."""

    number: int
    weights: str


def choose_version(
    session: Session,
    axis: str,
    reference: str | None,
    *,
    base: str | None,
    at: datetime | None,
    location: str,
    forms: bool = True,
) -> int:
    """Return the number of the version that a reference means; the newest without one.

    With `at`, of the versions that there were at that moment and still are. Without `forms`, the
    newest is none that is another form of a version.
    """
    if reference is None:
        return _choose_newest(session, axis, base, at, forms=forms)
    if not reference.isdigit():
        number = _choose_alias(session, axis, reference, base, at, location)
        if at is not None:
            require_number(session, axis, number, f"{axis}@{reference} was version {number} then. ")
        return number
    version = require_number(session, axis, reference)
    if base not in (None, version.weights):
        raise NotStoredError(
            f"{axis}@{version.number} is for base {describe_base(session, version.weights)}, "
            f"not {describe_base(session, base or '')}. {_places(session, axis)}"
        )
    if at is not None:
        _require_added(session, axis, version.number, at)
    return version.number


def require_number(session: Session, axis: str, reference: str | int, context: str = "") -> Known:
    """Return the version with a number."""
    digits = str(reference).lstrip("0") or "0"
    number = read_number(digits)
    weights = session.scalar(
        select(BaseRow.weights)
        .select_from(VersionRow)
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(AxisRow.name == axis, VersionRow.number == number)
    )
    if number is not None and weights is not None:
        return Known(number, weights)
    last = last_number(session, axis)
    long = len(digits) > _LONGEST_NUMBER
    shown = f"{digits[:_LONGEST_NUMBER]}…" if long else digits
    state = "was removed" if number is not None and 0 < number <= last else "does not exist"
    raise NotStoredError(
        f"{context}Version {shown} of axis {axis!r} {state}. "
        f"The axis has {_listed(_known_versions(session, axis))}."
    )


def read_number(reference: str) -> int | None:
    """Return the number that a reference is; None for an alias, and beyond all numbers."""
    digits = reference.lstrip("0") or "0"
    number = int(digits) if digits.isdigit() and len(digits) <= _LONGEST_NUMBER else None
    return None if number is None or number > _LARGEST_NUMBER else number


def has_version(session: Session, axis: str, number: int) -> bool:
    """Whether an axis has a version of this number."""
    found = select(VersionRow.id).join(VersionRow.axis)
    return (
        session.scalar(found.where(AxisRow.name == axis, VersionRow.number == number)) is not None
    )


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
    after: int = 0,
    created: datetime | None = None,
    seen: bool = True,
) -> VersionRecord:
    """Give a version the next number of its axis, or a free one, under the write lock.

    Numbers up to `after` are taken elsewhere. `seen` says whether its base was at hand just now,
    under the name and at the place it gives.
    """
    aliases = check_names(session, new.axis, new.axis_aliases)
    axis = session.scalar(select(AxisRow).where(AxisRow.name == new.axis).with_for_update())
    if axis is None:
        axis = AxisRow(name=new.axis, last_number=0)
        session.add(axis)
    # A copy of an older version, which lay beneath, leaves the last number as it is.
    last = axis.last_number
    number = max(last, after) + 1 if number is None else number
    axis.last_number = max(last, number)
    version = VersionRow(
        axis=axis,
        number=number,
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


def find_copy(
    session: Session, record: VersionRecord, axis: str, *, renumber: bool
) -> VersionRecord | None:
    """Return the version that has a record's bytes and base; None where it may be added."""
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
    last = last_number(session, axis)
    if renumber or record.number > last:
        return None
    taken = load_summaries(session, of_axis(axis), VersionRow.number == record.number)
    state = f"is a different version there{_told(taken)}" if taken else "was used before there"
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
    number: int | None,
    after: int = 0,
) -> VersionRecord:
    """Add a copy with its measurements and the date of the original, under the write lock.

    Under another name it has no aliases of the axis.
    """
    new = NewVersion(
        axis=axis,
        axis_aliases=record.axis_aliases if axis == record.axis else (),
        kind=record.kind,  # type: ignore[arg-type]  # as a registry gave it
        dtype=record.dtype,  # type: ignore[arg-type]
        base=record.base,
        metadata=record.metadata,
        note=record.note,
        tags=record.tags,
    )
    added = insert_version(
        session, new, blob, now, number=number, after=after, created=record.created, seen=False
    )
    row = find_row(session, axis, added.number)
    for measurement in record.measurements:
        append_measurement(row, measurement)
    session.flush()
    return replace(added, measurements=record.measurements)


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


def _choose_newest(
    session: Session, axis: str, base: str | None, at: datetime | None, *, forms: bool
) -> int:
    newest = _of(func.max(VersionRow.number), axis, base)
    if not forms and "tags" not in session.info.get("lacks", ()):
        is_form = TagRow.name.startswith(FORM_OF, autoescape=True)
        newest = newest.where(~exists().where(TagRow.version_id == VersionRow.id, is_form))
    then = newest if at is None else newest.where(VersionRow.created <= at)
    number: int | None = session.scalar(then)
    if number is not None:
        return number
    if at is not None and session.scalar(newest) is not None:
        oldest = session.scalars(_of(func.min(VersionRow.created), axis, base)).one()
        raise NotStoredError(
            f"Axis {axis!r} had no version{_for(session, base)} on {describe_moment(at)}: "
            f"its first was added on {describe_moment(oldest)}."
        )
    raise NotStoredError(
        f"Axis {axis!r} has no version{_for(session, base)}. {_places(session, axis)}"
    )


def _of(column: Function[Any], axis: str, base: str | None) -> Select[Any]:
    """Ask for a figure of the versions of an axis, on all bases or on one."""
    statement = select(column).join(VersionRow.axis).join(VersionRow.base)
    statement = statement.where(AxisRow.name == axis)
    return statement if base is None else statement.where(BaseRow.weights == base)


def _choose_alias(
    session: Session,
    axis: str,
    alias: str,
    base: str | None,
    at: datetime | None,
    location: str,
) -> int:
    current = current_aliases(session, axis, at)
    places = {weights: number for (weights, name), number in current.items() if name == alias}
    if not places:
        if at is not None:
            _refuse_moment(session, axis, alias, at)
        names = sorted({name for _, name in current_aliases(session, axis)})
        raise NotStoredError(
            f"Axis {axis!r} has no version alias {alias!r} in {location}. "
            f"It has: {', '.join(names) or 'none'}.{did_you_mean(alias, names)}"
        )
    shown = "; ".join(
        f"version {number} on base {describe_base(session, weights)}"
        for weights, number in sorted(places.items(), key=lambda place: place[1])
    )
    if base is None and len(places) == 1:
        return next(iter(places.values()))
    if base is None:
        raise RegistryError(f"{axis}@{alias} is ambiguous: {shown}. Choose with --base.")
    if base not in places:
        raise NotStoredError(
            f"{axis}@{alias} is not set for base {describe_base(session, base)}; it is {shown}."
        )
    return places[base]


def _refuse_moment(session: Session, axis: str, alias: str, at: datetime) -> None:
    """Say why an alias that is on record pointed to nothing at a moment."""
    events = [event for event in read_history(session, axis) if event.alias == alias]
    before = [event for event in events if event.created <= at]
    if before:
        told = f"it was {before[-1].action} on {describe_moment(before[-1].created)}"
    elif events:
        told = f"it was first set on {describe_moment(events[0].created)}"
    else:
        return
    raise NotStoredError(
        f"{axis}@{alias} pointed to nothing on {describe_moment(at)}: {told}. "
        f"`prefreg alias {axis}` shows its history."
    )


def _require_added(session: Session, axis: str, number: int, at: datetime) -> None:
    created = session.scalars(
        select(VersionRow.created)
        .join(VersionRow.axis)
        .where(AxisRow.name == axis, VersionRow.number == number)
    ).one()
    if created > at:
        raise NotStoredError(
            f"{axis}@{number} was added on {describe_moment(created)}, "
            f"after {describe_moment(at)}. Give a later date, or none."
        )


def _for(session: Session, base: str | None) -> str:
    return "" if base is None else f" for base {describe_base(session, base)}"


def _known_versions(session: Session, axis: str) -> list[Known]:
    rows = session.execute(
        select(VersionRow.number, BaseRow.weights)
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(AxisRow.name == axis)
        .order_by(VersionRow.number)
    )
    return [Known(number, weights) for number, weights in rows]


def _places(session: Session, axis: str) -> str:
    return f"The axis has {describe_places(session, axis)}."


def describe_places(session: Session, axis: str) -> str:
    """Tell the versions of an axis, base by base."""
    by_base: dict[str, list[Known]] = {}
    for version in _known_versions(session, axis):
        by_base.setdefault(version.weights, []).append(version)
    return "; ".join(
        f"{_listed(versions)} for base {describe_base(session, weights)}"
        for weights, versions in by_base.items()
    )


def last_number(session: Session, axis: str) -> int:
    """Return the largest number that an axis ever had; 0 where it had none."""
    return session.scalar(select(AxisRow.last_number).where(AxisRow.name == axis)) or 0


def _told(taken: Sequence[VersionSummary]) -> str:
    (version,) = taken
    return f" ({version.sha256[:12]}, on {version.base.name})"


def _listed(known: Sequence[Known]) -> str:
    numbers = [str(version.number) for version in known]
    if len(numbers) > 12:
        numbers = [*numbers[:3], "…", *numbers[-3:]]
    return f"version{'s' if len(known) > 1 else ''} {', '.join(numbers)}"
