"""A database's failures, told as one line with the registry's name and what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DatabaseError, DBAPIError

from prefreg.errors import RegistryError

_BY_PRIMARY_CODE = {
    sqlite3.SQLITE_NOTADB: "{0} is not a registry: it is no SQLite database. Name another file.",
    sqlite3.SQLITE_CORRUPT: "The registry {0} is damaged ({1}). Restore it from a backup.",
    sqlite3.SQLITE_FULL: "There is no space left for the registry {0}; nothing was changed. "
    "Free some space and try again.",
    sqlite3.SQLITE_READONLY: "The registry {0} cannot be written: it is read-only. "
    "Copy it to a writable place.",
    sqlite3.SQLITE_PERM: "The registry {0} may not be opened: permission denied.",
    sqlite3.SQLITE_CANTOPEN: "The registry {0} cannot be opened: check that its folder exists "
    "and that you may read and write there.",
    sqlite3.SQLITE_BUSY: "The registry {0} is in use by another process that does not finish. "
    "Wait for it, then try again.",
    sqlite3.SQLITE_LOCKED: "The registry {0} is locked by this process. Try again.",
    sqlite3.SQLITE_IOERR: "The disk of the registry {0} failed ({1}); nothing was changed. "
    "Check the disk and its free space.",
}
_INTERRUPTED = (
    "A write to the registry {0} was interrupted, and it cannot be repaired in a read-only place. "
    "Copy it, with its -journal file, to a writable place."
)


def sqlite_code(error: BaseException | None) -> int:
    """Return SQLite's extended result code, or 0."""
    return getattr(error, "sqlite_errorcode", None) or 0


@contextmanager
def explaining(location: str) -> Iterator[None]:
    """Turn failures of the database into `RegistryError`.

    Raises:
        RegistryError: The database failed; the cause says how.
    """
    try:
        yield
    except DBAPIError as error:
        raise RegistryError(_explain(error, location)) from error
    except UnicodeEncodeError as error:
        raise RegistryError(
            f"The text {error.object!r} is not valid Unicode and cannot be kept in {location}."
        ) from error


def _explain(error: DBAPIError, location: str) -> str:
    reason = (str(error.orig).splitlines() or ["no reason given"])[0]
    code = sqlite_code(error.orig)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return _INTERRUPTED.format(location)
    if template := _BY_PRIMARY_CODE.get(code & 0xFF):
        return template.format(location, reason)
    if code == 0 and isinstance(error, DatabaseError):
        return f"The registry {location} answered: {reason}. Check its address and state."
    return f"The registry {location} failed ({reason}). Run `prefreg verify` on it."
