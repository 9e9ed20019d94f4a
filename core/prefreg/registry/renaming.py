"""Renaming an axis; its old name goes on meaning it."""

from sqlalchemy import case, delete, func, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.names import check_names
from prefreg.registry.schema import AxisAliasRow, AxisRow, VersionRow


def rename_axis(session: Session, old: str, new: str) -> None:
    """Rename an axis with all its versions; the old name becomes an alias of each.

    Raises:
        UsageError: The new name is malformed.
        RegistryError: The new name is that of another axis, or of one whose versions are gone.
    """
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
