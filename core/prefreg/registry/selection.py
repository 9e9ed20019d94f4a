"""From a reference to a version, now or as it was at a moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.aliases import current_aliases, read_history
from prefreg.registry.known_bases import describe_base
from prefreg.registry.names import guess
from prefreg.registry.records import describe_moment
from prefreg.registry.schema import AxisRow, BaseRow, VersionRow

_LONGEST_NUMBER = 18


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
) -> int:
    """Return the number of the version that a reference means; the newest without one.

    With `at`, of the versions that there were at that moment and still are.
    """
    if reference is None:
        return _choose_newest(session, axis, base, at)
    if not reference.isdigit():
        number = _choose_alias(session, axis, reference, base, at, location)
        if at is not None:
            require_number(session, axis, number, f"{axis}@{reference} was version {number} then. ")
        return number
    version = require_number(session, axis, reference)
    if base not in (None, version.weights):
        raise RegistryError(
            f"{axis}@{version.number} is for base {describe_base(session, version.weights)}, "
            f"not {describe_base(session, base or '')}. {_places(session, axis)}"
        )
    if at is not None:
        _require_added(session, axis, version.number, at)
    return version.number


def require_number(session: Session, axis: str, reference: str | int, context: str = "") -> Known:
    """Return the version with a number."""
    digits = str(reference).lstrip("0") or "0"
    number = int(digits) if len(digits) <= _LONGEST_NUMBER else None
    weights = session.scalar(
        select(BaseRow.weights)
        .select_from(VersionRow)
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(AxisRow.name == axis, VersionRow.number == number)
    )
    if number is not None and weights is not None:
        return Known(number, weights)
    last = session.scalar(select(AxisRow.last_number).where(AxisRow.name == axis)) or 0
    shown = digits if number is not None else f"{digits[:_LONGEST_NUMBER]}…"
    state = "was removed" if number is not None and 0 < number <= last else "does not exist"
    raise RegistryError(
        f"{context}Version {shown} of axis {axis!r} {state}. "
        f"The axis has {_listed(_known_versions(session, axis))}."
    )


def _choose_newest(session: Session, axis: str, base: str | None, at: datetime | None) -> int:
    newest = (
        select(func.max(VersionRow.number))
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(AxisRow.name == axis)
    )
    if base is not None:
        newest = newest.where(BaseRow.weights == base)
    then = newest if at is None else newest.where(VersionRow.created <= at)
    number = session.scalar(then)
    if number is not None:
        return number
    if at is not None and session.scalar(newest) is not None:
        raise RegistryError(
            f"Axis {axis!r} had no version{_for(session, base)} on {describe_moment(at)}: "
            f"{_oldest(session, axis, base)}."
        )
    raise RegistryError(
        f"Axis {axis!r} has no version{_for(session, base)}. {_places(session, axis)}"
    )


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
        raise RegistryError(
            f"Axis {axis!r} has no version alias {alias!r} in {location}. "
            f"It has: {', '.join(names) or 'none'}.{guess(alias, names)}"
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
        raise RegistryError(
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
    raise RegistryError(
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
        raise RegistryError(
            f"{axis}@{number} was added on {describe_moment(created)}, "
            f"after {describe_moment(at)}. Give a later date, or none."
        )


def _oldest(session: Session, axis: str, base: str | None) -> str:
    first = (
        select(func.min(VersionRow.created))
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(AxisRow.name == axis)
    )
    if base is not None:
        first = first.where(BaseRow.weights == base)
    return f"its first was added on {describe_moment(session.scalars(first).one())}"


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
    by_base: dict[str, list[Known]] = {}
    for version in _known_versions(session, axis):
        by_base.setdefault(version.weights, []).append(version)
    places = "; ".join(
        f"{_listed(versions)} for base {describe_base(session, weights)}"
        for weights, versions in by_base.items()
    )
    return f"The axis has {places}."


def _listed(known: Sequence[Known]) -> str:
    numbers = [str(version.number) for version in known]
    if len(numbers) > 12:
        numbers = [*numbers[:3], "…", *numbers[-3:]]
    return f"version{'s' if len(known) > 1 else ''} {', '.join(numbers)}"
