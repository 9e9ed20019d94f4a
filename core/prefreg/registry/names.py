"""Names: axes and their aliases, version aliases with their history, and tags.

A version alias, such as `stable`, belongs to an axis and a base, and moves. Its events are only
ever appended, and the latest one says where it points.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import case, delete, func, select
from sqlalchemy.orm import Session, joinedload

from prefreg.errors import NotStoredError, RegistryError, UsageError, did_you_mean
from prefreg.registry.known_bases import describe_base, record_base
from prefreg.registry.presets import refuse_presets
from prefreg.registry.records import AliasAction, AliasEvent, describe_moment
from prefreg.registry.schema import (
    AliasEventRow,
    AxisAliasRow,
    AxisRow,
    BaseRow,
    TagRow,
    VersionRow,
)
from prefreg.terms import ALIAS_NAME, AXIS_NAME

_TAG = re.compile(r"[\w][\w.+/-]*")


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


def unknown_axis(name: str, axes: Mapping[str, Sequence[str]], location: str) -> NotStoredError:
    """Say that no vector is of an axis, beside the axes, with their aliases, that have some."""
    if not axes:
        return NotStoredError(
            f"There is no vector of axis {name!r}: {location} holds no vectors yet. "
            f"`prefreg add-axis {name}` makes one."
        )
    everything = [*axes, *(alias for aliases in axes.values() for alias in aliases)]
    return NotStoredError(
        f"{location} has no vector of axis {name!r}. It has: {', '.join(axes)}."
        f"{did_you_mean(name, everything)}"
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
    refuse_presets(session, (axis, *wanted))
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


def standing_aliases(
    session: Session, axes: Sequence[int] | None, at: datetime | None = None
) -> list[tuple[int, int, str, int]]:
    """Return (axis id, base id, alias, number) of what aliases point to, now or at a moment."""
    latest = select(func.max(AliasEventRow.id)).group_by(
        AliasEventRow.axis_id, AliasEventRow.base_id, AliasEventRow.alias
    )
    if axes is not None:
        latest = latest.where(AliasEventRow.axis_id.in_(axes))
    if at is not None:
        latest = latest.where(AliasEventRow.created <= at)
    rows = session.execute(
        select(
            AliasEventRow.axis_id, AliasEventRow.base_id, AliasEventRow.alias, AliasEventRow.number
        ).where(AliasEventRow.id.in_(latest))
    )
    return [(axis, base, alias, number) for axis, base, alias, number in rows if number]


def current_aliases(
    session: Session, axis: str, at: datetime | None = None
) -> dict[tuple[str, str], int]:
    """Map (weights of the base, alias) to the number of the version that it points to.

    At an earlier moment, that version may have been removed since.
    """
    axis_id = session.scalar(select(AxisRow.id).where(AxisRow.name == axis))
    if axis_id is None:
        return {}
    weights = dict(session.execute(select(BaseRow.id, BaseRow.weights)).all())
    return {
        (weights[base], alias): number
        for _, base, alias, number in standing_aliases(session, [axis_id], at)
    }


def aliases_of(session: Session, axis: str, number: int) -> tuple[str, ...]:
    """Return the aliases that point to a version, by name."""
    current = current_aliases(session, axis)
    return tuple(sorted(alias for (_, alias), target in current.items() if target == number))


def point_alias(session: Session, version: VersionRow, alias: str, now: datetime) -> None:
    """Point an alias of the version's base at the version; no event where it does already."""
    if not ALIAS_NAME.fullmatch(alias):
        raise UsageError(
            f"{alias!r} is no version alias: use letters, digits, '.', '_' or '-', "
            "and not digits alone."
        )
    before = current_aliases(session, version.axis.name).get((version.base.weights, alias))
    if before != version.number:
        action: AliasAction = "set" if before is None else "moved"
        _append(session, version.axis, version.base, alias, version.number, action, now)


def drop_alias(session: Session, axis: str, alias: str, base: str | None, now: datetime) -> None:
    """Delete an alias; its history stays."""
    current = current_aliases(session, axis)
    places = [weights for weights, name in current if name == alias and base in (None, weights)]
    if not places:
        names = ", ".join(sorted({name for _, name in current})) or "none"
        where = f" for base {describe_base(session, base)}" if base else ""
        raise RegistryError(
            f"Axis {axis!r} has no version alias {alias!r}{where}. It has: {names}."
        )
    if len(places) > 1:
        shown = ", ".join(describe_base(session, weights) for weights in places)
        raise RegistryError(
            f"{axis}@{alias} is set for several bases: {shown}. Choose with --base."
        )
    axis_row = session.scalars(select(AxisRow).where(AxisRow.name == axis)).one()
    base_row = session.scalars(select(BaseRow).where(BaseRow.weights == places[0])).one()
    _append(session, axis_row, base_row, alias, None, "deleted", now)


def drop_aliases_of(
    session: Session, version: VersionRow, aliases: Iterable[str], now: datetime
) -> None:
    """Note that aliases are gone with the version they pointed to."""
    for alias in aliases:
        _append(session, version.axis, version.base, alias, None, "removed", now)


def read_history(
    session: Session, axis: str, alias: str | None = None, at: datetime | None = None
) -> list[AliasEvent]:
    """Return every change of an axis' version aliases, or of one, until a moment, oldest first."""
    rows = session.scalars(
        select(AliasEventRow)
        .join(AliasEventRow.axis)
        .where(AxisRow.name == axis)
        .options(joinedload(AliasEventRow.base))
        .order_by(AliasEventRow.id)
    ).all()
    if alias is not None:
        ever = {row.alias for row in rows}
        rows = [row for row in rows if row.alias == alias]
        if not rows:
            raise RegistryError(
                f"Axis {axis!r} never had a version alias {alias!r}. "
                f"It had: {', '.join(sorted(ever)) or 'none'}."
            )
    until = [row for row in rows if at is None or row.created <= at]
    if rows and not until and at is not None:
        raise RegistryError(
            f"No version alias of axis {axis!r} was set by {describe_moment(at)}: "
            f"the first, {rows[0].alias!r}, was set on {describe_moment(rows[0].created)}."
        )
    return [
        AliasEvent(
            axis=axis,
            base=record_base(row.base),
            alias=row.alias,
            number=row.number,
            created=row.created,
            action=row.action,  # type: ignore[arg-type]  # only this module writes actions
        )
        for row in until
    ]


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


def _append(
    session: Session,
    axis: AxisRow,
    base: BaseRow,
    alias: str,
    number: int | None,
    action: AliasAction,
    now: datetime,
) -> None:
    session.add(
        AliasEventRow(axis=axis, base=base, alias=alias, number=number, action=action, created=now)
    )
    session.flush()
