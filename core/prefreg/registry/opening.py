"""Opening a registry's database: its connections, its locks and its transactions."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from prefreg.errors import RegistryError
from prefreg.registry.failures import explaining, sqlite_code

_LOCK_KEY = 0x70726566726567  # "prefreg": one writer at a time on a server, as in a file


class Database:
    """A registry's tables, reached through one short connection per transaction.

    SQLite stays in rollback-journal mode: WAL needs a writable folder to read, breaks on
    network homes and spreads one registry over three files.
    """

    def __init__(self, location: str, engine: Engine, path: Path | None, *, write: bool) -> None:
        """Use `Database.open`."""
        self.location = location
        self.engine = engine
        self.path = path
        self.write = write
        self.has_tags = True
        """Whether the schema, which readers take as it is, has the table of tags."""

    @classmethod
    def open(cls, location: str | os.PathLike[str], *, write: bool, busy_timeout: float) -> Self:
        """Open a path or a SQLAlchemy URL; nothing is read or written yet.

        Raises:
            RegistryError: There is nothing to open, or it cannot be written.
        """
        shown = os.fspath(location)
        url = _read_url(shown) if "://" in shown else None
        if url is not None and url.get_backend_name() != "sqlite":
            shown = url.render_as_string(hide_password=True)
            return cls(shown, _server_engine(url, shown), None, write=write)
        if url is not None:
            shown = _sqlite_path(url)
        path = Path(shown).resolve()
        (_check_writable if write else _check_readable)(shown, path)
        return cls(shown, _sqlite_engine(path, write, busy_timeout), path, write=write)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read one consistent state.

        Raises:
            RegistryError: The database failed.
        """
        info = {"has_tags": self.has_tags}
        with explaining(self.location), Session(self.engine, info=info) as session:
            if self.engine.dialect.name == "postgresql":
                # Several statements must see one state; a writer, who waits first, must not.
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Hold the write lock from the first moment, and commit at the end.

        Raises:
            RegistryError: The database failed, or was opened for reading.
        """
        if not self.write:
            raise RegistryError(f"The registry {self.location} was opened for reading only.")
        engine = self.engine.execution_options(prefreg_begin="IMMEDIATE")
        with explaining(self.location), Session(engine) as session, session.begin():
            connection = session.connection()  # begins now: a lazy BEGIN would lock too late
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            yield session

    def vacuum(self) -> int:
        """Give the database's free pages back to the disk; return how many bytes they were."""
        if self.path is None:
            return 0
        engine = self.engine.execution_options(prefreg_begin=None)  # VACUUM begins by itself
        with explaining(self.location), engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
            if pages:
                connection.exec_driver_sql("VACUUM")
            return int(pages) * int(size)

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.dispose()


def _read_url(text: str) -> URL:
    try:
        return make_url(text)
    except ArgumentError as error:
        raise RegistryError(
            f"{text!r} is not a database URL. Write sqlite:///registry.db, or a plain path."
        ) from error


def _sqlite_path(url: URL) -> str:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:") or url.query:
        raise RegistryError(
            f"A registry is kept in a plain file, not in {str(url)!r}. "
            "Write sqlite:///registry.db, or a plain path."
        )
    return path


def _server_engine(url: URL, shown: str) -> Engine:
    try:
        return create_engine(url, poolclass=NullPool)
    except (ArgumentError, ImportError) as error:
        raise RegistryError(
            f"The registry {shown} cannot be reached: its database driver is not installed "
            f"({error})."
        ) from error


def _check_readable(shown: str, path: Path) -> None:
    if not path.exists():
        raise RegistryError(
            f"There is no registry at {shown}. `prefreg add-axis NAME` creates "
            "one; --registry names another."
        )
    if not path.is_file():
        raise RegistryError(f"{shown} is not a registry: it is no file. Name a file.")


def _check_writable(shown: str, path: Path) -> None:
    # Asked before hours of training: SQLite would find out only when it first writes.
    if not path.parent.is_dir():
        raise RegistryError(f"The folder of the registry {shown} does not exist. Create it first.")
    if path.exists() and not path.is_file():
        raise RegistryError(f"{shown} is not a registry: it is no file. Name a file.")
    for place in (path.parent, *([path] if path.exists() else [])):
        if not os.access(place, os.W_OK):
            raise RegistryError(
                f"The registry {shown} cannot be written: {place} is read-only. "
                "Copy it to a writable place, or name another with --registry."
            )


def _sqlite_engine(path: Path, write: bool, busy_timeout: float) -> Engine:
    def connect() -> sqlite3.Connection:
        return (
            _connect_to_write(path, busy_timeout) if write else _connect_to_read(path, busy_timeout)
        )

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    # The driver's own transaction handling is off (isolation_level=None): it begins late,
    # not at all before DDL, and never takes the write lock first.
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        lock = connection.get_execution_options().get("prefreg_begin", "DEFERRED")
        if lock is not None:
            connection.exec_driver_sql(f"BEGIN {lock}")

    return engine


def _connect(path: Path, mode: str, busy_timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _connect_to_write(path: Path, busy_timeout: float) -> sqlite3.Connection:
    connection = _connect(path, "rwc", busy_timeout)
    try:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        # EXTRA also syncs the folder after a commit, so that what was reported stays.
        connection.execute("PRAGMA synchronous=EXTRA")
        # Where it is on, removed bytes are overwritten, which a full disk has no room to journal.
        connection.execute("PRAGMA secure_delete=OFF").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connect_to_read(path: Path, busy_timeout: float) -> sqlite3.Connection:
    connection = _connect(path, "ro", busy_timeout)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if sqlite_code(error) != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        # A writer was killed in the middle of a commit; only a writable connection may undo it.
        _roll_back(path, busy_timeout, error)
        connection = _connect(path, "ro", busy_timeout)
    return connection


def _roll_back(path: Path, busy_timeout: float, cause: sqlite3.Error) -> None:
    connection = _connect(path, "rw", busy_timeout)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        raise cause from error
    finally:
        connection.close()
