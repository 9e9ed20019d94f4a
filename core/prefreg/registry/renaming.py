"""Renaming an axis; its old name goes on meaning it."""

from sqlalchemy import func, select
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
    for version in session.scalars(select(VersionRow).where(VersionRow.axis == axis)):
        kept = [alias for alias in version.axis_aliases if alias.name != new]
        for alias in version.axis_aliases:
            if alias.name == new:
                session.delete(alias)
        if old not in [alias.name for alias in kept]:
            last = session.scalar(
                select(func.max(AxisAliasRow.position)).where(AxisAliasRow.version_id == version.id)
            )
            position = 0 if last is None else last + 1
            session.add(AxisAliasRow(version_id=version.id, position=position, name=old))
    axis.name = new
    session.flush()


def _check_free(session: Session, old: str, new: str) -> None:
    if session.scalar(select(AxisRow.id).where(AxisRow.name == new)) is not None:
        raise RegistryError(
            f"Axis {old!r} cannot be renamed to {new!r}: that name is taken. Use another."
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
