"""Names of axes: whom they belong to, with messages that say what there is."""

import difflib
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefreg.axes import AXIS_NAME
from prefreg.errors import RegistryError, UsageError
from prefreg.registry.schema import AxisAliasRow, AxisRow, VersionRow


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
        f"{guess(name, everything)}"
    )


def check_axis_name(name: str) -> None:
    """Refuse what can be no name of an axis.

    Raises:
        UsageError: It is malformed.
    """
    if not AXIS_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no axis name: use a lower-case letter, then letters, digits, '_' or '-'."
        )


def check_names(session: Session, axis: str, aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases without repetition, or refuse names that other axes bear.

    Raises:
        UsageError: A name is malformed.
        RegistryError: A name belongs to another axis.
    """
    wanted = tuple(alias for alias in dict.fromkeys(aliases) if alias != axis)
    for name in (axis, *wanted):
        check_axis_name(name)
    for other, other_aliases in axis_names(session).items():
        if other == axis:
            continue
        if axis in other_aliases:
            raise RegistryError(
                f"The name {axis!r} is an alias of axis {other!r} here. Use another name."
            )
        for alias in wanted:
            if alias == other or alias in other_aliases:
                bearer = "another axis" if alias == other else f"an alias of axis {other!r}"
                raise RegistryError(
                    f"Axis {axis!r} cannot have the alias {alias!r}: it is {bearer} here. "
                    "Use another alias."
                )
    return wanted


def guess(name: str, names: Iterable[str]) -> str:
    """Return the end of a message: the name that may have been meant, if one is close."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
