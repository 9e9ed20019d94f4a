"""Names of axes: whom they belong to, with messages that say what there is."""

import difflib
import re
from collections.abc import Iterable

from sqlalchemy import case, delete, func, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError, UsageError
from prefreg.registry.schema import AxisAliasRow, AxisRow, TagRow, VersionRow
from prefreg.terms import AXIS_NAME


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
    """Return the axis that a name or alias stands for."""
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
    """Refuse what can be no name of an axis."""
    if not AXIS_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no axis name: use a lower-case letter, then letters, digits, '_' or '-'."
        )


def check_names(session: Session, axis: str, aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases without repetition, or refuse names that other axes bear."""
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


def rename_axis(session: Session, old: str, new: str) -> None:
    """Rename an axis with all its versions; the old name becomes an alias of each."""
    if old == new:
        return
    _check_free(session, old, new)
    axis = session.scalars(select(AxisRow).where(AxisRow.name == old).with_for_update()).one()
    of_axis = select(VersionRow.id).where(VersionRow.axis_id == axis.id)
    session.execute(
        delete(AxisAliasRow).where(AxisAliasRow.version_id.in_(of_axis), AxisAliasRow.name == new)
    )
    lacking = session.execute(
        select(VersionRow.id, func.coalesce(func.max(AxisAliasRow.position), -1))
        .outerjoin(AxisAliasRow, AxisAliasRow.version_id == VersionRow.id)
        .where(VersionRow.axis_id == axis.id)
        .group_by(VersionRow.id)
        .having(func.coalesce(func.sum(case((AxisAliasRow.name == old, 1), else_=0)), 0) == 0)
    )
    session.add_all(
        AxisAliasRow(version_id=version, position=last + 1, name=old) for version, last in lacking
    )
    axis.name = new
    session.flush()


def _check_free(session: Session, old: str, new: str) -> None:
    taken = session.scalar(select(AxisRow.id).where(AxisRow.name == new))
    if taken is not None:
        used = session.scalar(select(VersionRow.id).where(VersionRow.axis_id == taken).limit(1))
        bearer = "is another axis" if used is not None else "was an axis whose versions are gone"
        raise RegistryError(
            f"Axis {old!r} cannot be renamed to {new!r}: {new!r} {bearer} here. Use another name."
        )
    own = set(
        session.scalars(
            select(AxisAliasRow.name)
            .join(VersionRow, VersionRow.id == AxisAliasRow.version_id)
            .join(VersionRow.axis)
            .where(AxisRow.name == old)
        )
    )
    if new not in own:
        check_names(session, new, ())


_TAG = re.compile(r"[\w][\w.+/-]*")


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags without repetition, by name."""
    wanted = tuple(sorted(set(tags)))
    for tag in wanted:
        if not _TAG.fullmatch(tag):
            raise UsageError(
                f"{tag!r} is no tag: use letters, digits, '_', '.', '+', '/' or '-', and no spaces."
            )
    return wanted


def change_tags(
    session: Session, version: VersionRow, tags: Iterable[str], *, remove: bool
) -> None:
    """Add tags to a version, or take them away; what is so already is no error."""
    wanted = check_tags(tags)
    if remove:
        session.execute(
            delete(TagRow).where(TagRow.version_id == version.id, TagRow.name.in_(wanted))
        )
        return
    present = set(session.scalars(select(TagRow.name).where(TagRow.version_id == version.id)))
    session.add_all(TagRow(version_id=version.id, name=tag) for tag in wanted if tag not in present)
    session.flush()
