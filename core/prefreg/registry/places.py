"""Which place a registry keeps its vectors in: what it remembers, and what it is told."""

import re
import secrets
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError, UsageError
from prefreg.registry.blobs import Folder, InRows, Place, blob_folder, reaching
from prefreg.registry.database import Database
from prefreg.registry.schema import BlobRow, SettingRow

BLOBS = "blobs"
"""The setting that says where a registry's vectors lie."""

_PART = re.compile("[0-9a-f]{16}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def find_place(
    database: Database, blobs: str | None, *, inline_limit: int, timeout: float
) -> Place:
    """Return the place of a registry's vectors; a writer makes it remember the one it is told.

    Two registries may be told the same one: each has a part of its own, named by chance.

    Raises:
        UsageError: `blobs` is no store.
        RegistryError: The registry has vectors elsewhere.
    """
    url = _settle(database, None if blobs is None else read_store(blobs), inline_limit, timeout)
    return _open(database, url, inline_limit, timeout)


def read_store(text: str) -> str:
    """Return `s3://BUCKET[/PREFIX]` or `file:///FOLDER` without a slash at its end."""
    try:
        url = urlsplit(text)
        path = unquote(url.path).rstrip("/")
    except ValueError:
        url, path = urlsplit(""), ""
    right = (
        not url.query and not url.fragment and ".." not in path.split("/") and text.isprintable()
    )
    if right and url.scheme == "s3" and _BUCKET.fullmatch(url.netloc):
        return f"s3://{url.netloc}{path}"
    if right and url.scheme == "file" and not url.netloc and path:
        return f"file://{path}"
    raise UsageError(
        f"{text!r} is no store for vectors. Write s3://BUCKET/PREFIX or file:///FOLDER; what the "
        "AWS tools need to know is taken from the environment."
    )


def remembered_store(session: Session) -> str | None:
    """Return where the registry's vectors lie; None where it is beside or in the database."""
    if SettingRow.__tablename__ in session.info.get("lacks", ()):
        return None
    url = session.scalar(select(SettingRow.value).where(SettingRow.name == BLOBS))
    if url is not None:
        # Files may come from anyone, and `gc` deletes: only ever in a part named by chance.
        store, _, part = url.rpartition("/")
        try:
            sound = _PART.fullmatch(part) is not None and read_store(store) == store
        except UsageError:
            sound = False
        if not sound:
            raise RegistryError(
                f"The registry remembers {url!r}, which is no store for its vectors. "
                "Restore it from a backup."
            )
    return url


def _settle(database: Database, told: str | None, inline_limit: int, timeout: float) -> str | None:
    with database.reading() as session:
        known = remembered_store(session)
    if told is None or (known is not None and told == known.rpartition("/")[0]):
        return known
    if known is not None:
        raise RegistryError(
            f"{database.location} keeps its vectors in {known.rpartition('/')[0]}, not in {told}. "
            "Leave --blobs out: the registry remembers it."
        )
    if not database.write:
        return None  # nothing lies there yet
    url = f"{told}/{secrets.token_hex(8)}"
    with reaching(f"{database.location} cannot keep vectors there"):
        _open(database, url, inline_limit, timeout).check()
    with database.writing() as session:
        if remembered_store(session) is None:  # nor told by another writer meanwhile
            _refuse_others(session, database)
            session.add(SettingRow(name=BLOBS, value=url))
            return url
    return _settle(database, told, inline_limit, timeout)


def _refuse_others(session: Session, database: Database) -> None:
    outside = session.scalar(select(func.count()).where(BlobRow.mtime_ns.is_not(None)))
    if outside:
        raise RegistryError(
            f"{database.location} has vectors beside it already ({outside}), so it takes no store. "
            "Name a new registry with --blobs, and `prefreg copy` them there."
        )


def _open(database: Database, url: str | None, inline_limit: int, timeout: float) -> Place:
    if url is None:
        if database.path is None:
            return InRows()
        return Folder(blob_folder(database.path), inline_limit)
    if url.startswith("file://"):
        return Folder(Path(url.removeprefix("file://")), 0)
    from prefreg.registry.object_store import ObjectStore

    def known(sha256: str) -> BlobRow | None:
        with database.reading() as session:
            return session.get(BlobRow, sha256)

    return ObjectStore(url, known, timeout=timeout)
