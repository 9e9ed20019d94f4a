"""The base models that a registry knows."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.records import BaseIdentity, BaseRecord
from prefreg.registry.schema import BaseRow


def record_base(row: BaseRow) -> BaseRecord:
    """Turn a row into a record."""
    return BaseRecord(
        name=row.name,
        revision=row.revision,
        path=row.path,
        weights=row.weights,
        tokenizer=row.tokenizer,
        template=row.template,
        parameters=row.parameters,
        dtype=row.dtype,
        created=row.created,
    )


def describe_base(session: Session, weights: str) -> str:
    """Name a base in a message, by its name where it is known."""
    row = _find(session, weights)
    return f"{row.name} ({weights[:12]})" if row else f"with fingerprint {weights[:12]}"


def list_bases(session: Session) -> list[BaseRecord]:
    """Return every base, by name."""
    rows = session.scalars(select(BaseRow).order_by(BaseRow.name, BaseRow.id))
    return [record_base(row) for row in rows]


def find_base(session: Session, weights: str) -> BaseRecord | None:
    """Return the base with these weights."""
    row = _find(session, weights)
    return record_base(row) if row else None


def last_base(session: Session) -> BaseRecord | None:
    """Return the base of the newest version or registration."""
    row = session.scalar(select(BaseRow).order_by(BaseRow.used.desc()).limit(1))
    return record_base(row) if row else None


def keep_base(
    session: Session, identity: BaseIdentity, now: datetime, *, seen: bool = True
) -> BaseRow:
    """Add a base, or note how and where a known one was seen this time, if it was."""
    row = _find(session, identity.weights)
    if row is not None and not seen:
        return row
    if row is None:
        row = BaseRow(weights=identity.weights, created=now)
    row.name, row.revision = identity.name, identity.revision
    row.path = identity.path
    row.tokenizer, row.template = identity.tokenizer, identity.template
    row.parameters, row.dtype = identity.parameters, identity.dtype
    with session.no_autoflush:  # half a row must not be written
        row.used = (session.scalar(select(func.max(BaseRow.used))) or 0) + 1
    session.add(row)
    session.flush()
    return row


def move_base(session: Session, weights: str, path: str, location: str) -> BaseRecord:
    """Note that a base lies elsewhere now; one that is named by its folder is renamed."""
    row = _find(session, weights)
    if row is None:
        raise RegistryError(
            f"{location} knows no base with fingerprint {weights[:12]}. "
            "`prefreg bases` lists those it knows."
        )
    if row.name == row.path:
        row.name = path
    row.path = path
    session.flush()
    return record_base(row)


def _find(session: Session, weights: str) -> BaseRow | None:
    return session.scalar(select(BaseRow).where(BaseRow.weights == weights))
