"""Version aliases: names such as `stable` that move, with every move on record.

An alias belongs to an axis and a base. Events are only ever appended, and the latest event of
an alias says where it points.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from prefreg.errors import RegistryError, UsageError
from prefreg.registry.known_bases import describe_base, record_base
from prefreg.registry.records import AliasAction, AliasEvent, describe_moment
from prefreg.registry.schema import AliasEventRow, AxisRow, BaseRow, VersionRow
from prefreg.terms import ALIAS_NAME


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
