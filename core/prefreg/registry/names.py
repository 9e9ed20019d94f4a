"""From what a user wrote to an axis and a version, with messages that say what there is."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefreg.axes import AXIS_NAME
from prefreg.errors import RegistryError, UsageError
from prefreg.registry.aliases import current_aliases
from prefreg.registry.bases import describe_base
from prefreg.registry.schema import AxisAliasRow, AxisRow, BaseRow, VersionRow

_LONGEST_NUMBER = 18


@dataclass(frozen=True, slots=True)
class Known:
    """As little of a version as choosing one takes."""

    number: int
    weights: str


def axis_names(session: Session) -> dict[str, tuple[str, ...]]:
    """Return every axis that has a version, with the aliases of all its versions."""
    found: dict[str, dict[str, None]] = {}
    for axis, alias in session.execute(
        select(AxisRow.name, AxisAliasRow.name)
        .select_from(VersionRow)
        .join(AxisRow, VersionRow.axis_id == AxisRow.id)
        .outerjoin(AxisAliasRow, AxisAliasRow.version_id == VersionRow.id)
        .order_by(AxisRow.name, VersionRow.number, AxisAliasRow.position)
    ):
        found.setdefault(axis, {}).update({alias: None} if alias else {})
    return {axis: tuple(aliases) for axis, aliases in found.items()}


def canonical_name(session: Session, name: str) -> str | None:
    """Return the axis that a name or alias stands for."""
    used = select(AxisRow.name).join(VersionRow, VersionRow.axis_id == AxisRow.id)
    found = session.scalar(used.where(AxisRow.name == name).limit(1))
    if found is not None:
        return found
    # `AxisAliasRow.name` is indexed: no look at every version.
    return session.scalar(
        used.join(AxisAliasRow, AxisAliasRow.version_id == VersionRow.id)
        .where(AxisAliasRow.name == name)
        .order_by(AxisRow.name)
        .limit(1)
    )


def require_axis(session: Session, name: str, location: str) -> str:
    """Return the axis that a name or alias stands for.

    Raises:
        RegistryError: No version has such an axis.
    """
    axis = canonical_name(session, name)
    if axis is not None:
        return axis
    axes = axis_names(session)
    if not axes:
        raise RegistryError(
            f"There is no vector of axis {name!r}: {location} holds no vectors yet. "
            f"`prefreg add-axis {name}` makes one."
        )
    everything = [*axes, *(alias for aliases in axes.values() for alias in aliases)]
    raise RegistryError(
        f"{location} has no vector of axis {name!r}. It has: {', '.join(axes)}."
        f"{_guess(name, everything)}"
    )


def check_names(session: Session, axis: str, aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases without repetition, or refuse names that other axes bear.

    Raises:
        UsageError: A name is malformed.
        RegistryError: A name belongs to another axis.
    """
    wanted = tuple(alias for alias in dict.fromkeys(aliases) if alias != axis)
    for name in (axis, *wanted):
        if not AXIS_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no axis name: use a lower-case letter, "
                "then letters, digits, '_' or '-'."
            )
    for other, other_aliases in axis_names(session).items():
        if other == axis:
            continue
        if axis in other_aliases:
            raise RegistryError(
                f"Axis {axis!r} cannot be added: {axis!r} is an alias of axis {other!r} here. "
                "Use another name."
            )
        for alias in wanted:
            if alias == other or alias in other_aliases:
                bearer = "another axis" if alias == other else f"an alias of axis {other!r}"
                raise RegistryError(
                    f"Axis {axis!r} cannot have the alias {alias!r}: it is {bearer} here. "
                    "Use another alias."
                )
    return wanted


def choose_version(
    session: Session, axis: str, reference: str | None, base: str | None, location: str
) -> int:
    """Return the number of the version that a reference means; the newest without one.

    Raises:
        RegistryError: There is none, or several bases could be meant.
    """
    known = known_versions(session, axis)
    if reference is None:
        numbers = [version.number for version in known if base in (None, version.weights)]
        if numbers:
            return max(numbers)
        raise RegistryError(
            f"Axis {axis!r} has no version for base {describe_base(session, base or '')}. "
            f"{_places(session, known)}"
        )
    if reference.isdigit():
        version = require_number(session, axis, reference)
        if base in (None, version.weights):
            return version.number
        raise RegistryError(
            f"{axis}@{version.number} is for base {describe_base(session, version.weights)}, "
            f"not {describe_base(session, base or '')}. {_places(session, known)}"
        )
    return _choose_alias(session, axis, reference, base, location)


def known_versions(session: Session, axis: str) -> list[Known]:
    """Return the versions of an axis, oldest first."""
    rows = session.execute(
        select(VersionRow.number, BaseRow.weights)
        .join(VersionRow.axis)
        .join(VersionRow.base)
        .where(AxisRow.name == axis)
        .order_by(VersionRow.number)
    )
    return [Known(number, weights) for number, weights in rows]


def require_number(session: Session, axis: str, reference: str | int) -> Known:
    """Return the version with a number.

    Raises:
        RegistryError: There is none; it says which there are, and whether it was removed.
    """
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
    known = known_versions(session, axis)
    last = session.scalar(select(AxisRow.last_number).where(AxisRow.name == axis)) or 0
    shown = digits if number is not None else f"{digits[:_LONGEST_NUMBER]}…"
    state = "was removed" if number is not None and 0 < number <= last else "does not exist"
    raise RegistryError(f"Version {shown} of axis {axis!r} {state}. The axis has {_listed(known)}.")


def _choose_alias(session: Session, axis: str, alias: str, base: str | None, location: str) -> int:
    current = current_aliases(session, axis)
    places = {weights: number for (weights, name), number in current.items() if name == alias}
    if not places:
        names = sorted({name for _, name in current})
        raise RegistryError(
            f"Axis {axis!r} has no version alias {alias!r} in {location}. "
            f"It has: {', '.join(names) or 'none'}.{_guess(alias, names)}"
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


def _places(session: Session, known: list[Known]) -> str:
    by_base: dict[str, list[Known]] = {}
    for version in known:
        by_base.setdefault(version.weights, []).append(version)
    places = "; ".join(
        f"{_listed(versions)} for base {describe_base(session, weights)}"
        for weights, versions in by_base.items()
    )
    return f"The axis has {places}."


def _listed(known: list[Known]) -> str:
    numbers = [str(version.number) for version in known]
    if len(numbers) > 12:
        numbers = [*numbers[:3], "…", *numbers[-3:]]
    return f"version{'s' if len(known) > 1 else ''} {', '.join(numbers)}"


def _guess(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(names)), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
