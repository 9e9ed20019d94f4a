"""Tags: words that group versions, as many as wanted, on as many versions as wanted."""

import re
from collections.abc import Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from prefreg.errors import UsageError
from prefreg.registry.schema import TagRow, VersionRow

_TAG = re.compile(r"[\w][\w.+/-]*")


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags without repetition, by name.

    Raises:
        UsageError: A tag is malformed.
    """
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
    """Add tags to a version, or take them away; what is so already is no error.

    Raises:
        UsageError: A tag is malformed.
    """
    wanted = check_tags(tags)
    if remove:
        session.execute(
            delete(TagRow).where(TagRow.version_id == version.id, TagRow.name.in_(wanted))
        )
        return
    present = set(session.scalars(select(TagRow.name).where(TagRow.version_id == version.id)))
    session.add_all(TagRow(version_id=version.id, name=tag) for tag in wanted if tag not in present)
    session.flush()
