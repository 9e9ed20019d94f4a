"""A registry's database: its connections, its locks, its transactions, and its schema."""

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from prefreg.config import is_starter
from prefreg.errors import RegistryError

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every revision, oldest first; known here so that reading needs no Alembic."""

_OUR_TABLES = frozenset({"alembic_version", "axes", "blobs", "versions"})
_CAME_WITH = {"tags": "0002", "presets": "0004", "settings": "0005"}
"""Tables that not every registry has, by the revision that brought them."""
_LAST_PORT = 65535
_LOCK_KEY = 0x70726566726567  # "prefreg": one writer at a time on a server, as in a file

# For the length of the transaction, so that it holds behind a pool of connections too. A writer
# that was stopped, or whose machine is gone, must not keep the lock for good.
_BOUNDS = text(
    "SELECT set_config('lock_timeout', :lock, true),"
    " set_config('idle_in_transaction_session_timeout', '600000', true)"
)
_CONNECTING = {
    "application_name": "prefreg",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "prepare_threshold": None,  # poolers hand statements to other connections
    "tcp_user_timeout": 60_000,
}
"""How psycopg connects, unless the URL says otherwise."""

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
_BY_SQLSTATE = {
    "08": "The connection to the registry {0} was lost. {2}",
    "22": "The registry {0} cannot keep a value ({1}).",
    "25006": "The registry {0} cannot be written: its server is a replica, which is only read.",
    "42501": "The registry {0} refuses that: {1}. Ask its owner for the right.",
    "53100": "There is no space left for the registry {0}; nothing was changed. "
    "Free some space on its server and try again.",
    "53300": "The server of the registry {0} has too many connections. Try again later.",
    "55P03": _BY_PRIMARY_CODE[sqlite3.SQLITE_BUSY],
    "57014": "The server of the registry {0} allows no more time ({1}); nothing was changed. "
    "Raise its statement_timeout.",
    "57P": "The server of the registry {0} went away ({1}). {2}",
}
"""What to say by the code of PostgreSQL, or by how it begins."""

_LOST = "A change that was being written is there wholly or not at all: look before you repeat it."
_PROTOCOL = re.compile(r"^.*failed: (FATAL: +)?|^FATAL: +")
_INTERRUPTED = (
    "A write to the registry {0} was interrupted, and it cannot be repaired in a read-only place. "
    "Copy it, with its -journal file, to a writable place."
)


class Database:
    """A registry's tables, reached through one short connection per transaction of SQLite.

    SQLite stays in rollback-journal mode: WAL needs a writable folder to read, breaks on
    network homes and spreads one registry over three files.
    """

    def __init__(
        self,
        location: str,
        engine: Engine,
        path: Path | None,
        *,
        write: bool,
        timeout: float = 0,
    ) -> None:
        """Use `Database.open`."""
        self._timeout = timeout
        self.location = location
        self.engine = engine
        self.path = path
        self.write = write
        self.lacks: frozenset[str] = frozenset()
        """The tables that the schema, which readers take as it is, is too old for."""
        self.starter = path is not None and is_starter(path)
        """Whether its versions are told as those that ship with prefreg."""

    @classmethod
    def open(cls, location: str | os.PathLike[str], *, write: bool, busy_timeout: float) -> Self:
        """Open a path or a SQLAlchemy URL; nothing is read or written yet."""
        shown = str(file_of(os.fspath(location)))
        if "://" in shown:
            url = _read_url(shown)
            shown = url.render_as_string(hide_password=True)
            return cls(shown, _server_engine(url, shown), None, write=write, timeout=busy_timeout)
        path = Path(os.path.realpath(shown))  # a link to itself raises nothing here
        (_check_writable if write else _check_readable)(shown, path)
        return cls(shown, _sqlite_engine(path, write, busy_timeout), path, write=write)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read one consistent state."""
        info = {"lacks": self.lacks, "starter": self.starter}
        with _explaining(self.location), Session(self.engine, info=info) as session:
            if self.engine.dialect.name == "postgresql":
                # Several statements must see one state; a writer, who waits first, must not.
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Hold the write lock from the first moment, and commit at the end."""
        if not self.write:
            raise RegistryError(f"The registry {self.location} was opened for reading only.")
        engine = self.engine.execution_options(prefreg_begin="IMMEDIATE")
        with _explaining(self.location), Session(engine) as session, session.begin():
            connection = session.connection()  # begins now: a lazy BEGIN would lock too late
            if connection.dialect.name == "postgresql":
                connection.execute(_BOUNDS, {"lock": f"{1000 * self._timeout:.0f}"})
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            yield session

    def vacuum(self) -> int:
        """Give the database's free pages back to the disk; return how many bytes they were."""
        if self.path is None:
            return 0
        engine = self.engine.execution_options(prefreg_begin=None)  # VACUUM begins by itself
        with _explaining(self.location), engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
            if pages:
                connection.exec_driver_sql("VACUUM")
            return int(pages) * int(size)

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.dispose()


def file_of(location: str | Path) -> str | Path:
    """Return the path that the URL of a SQLite file stands for; other places as they are."""
    text = str(location)
    if "://" not in text or (url := _read_url(text)).get_backend_name() != "sqlite":
        return location
    return _sqlite_path(url)


def is_filled(location: str | Path) -> bool:
    """Whether a server has a registry's tables, or cannot tell, which whoever reads it is told."""
    try:
        database = Database.open(location, write=False, busy_timeout=30)
        with closing(database), database.reading() as session:
            return find_revision(session.connection(), database.location) is not None
    except RegistryError:
        return True


def check_schema(database: Database, revisions: Sequence[str] = REVISIONS) -> None:
    """Make sure that a registry can be read as it is; an older schema can."""
    with database.reading() as session:
        revision = find_revision(session.connection(), database.location, revisions)
    if revision is None:
        raise RegistryError(
            f"The registry {database.location} is empty: it has no tables yet. "
            "`prefreg add-axis NAME` fills it."
        )
    later = revisions[revisions.index(revision) + 1 :]
    database.lacks = frozenset(table for table, since in _CAME_WITH.items() if since in later)


def upgrade_schema(database: Database) -> None:
    """Create the tables, or bring them to the newest revision, unless they are there."""
    with database.reading() as session:
        if find_revision(session.connection(), database.location) == REVISIONS[-1]:
            return
    with database.writing() as session:
        connection = session.connection()
        # Asked again under the lock: of several processes only the first may migrate.
        if find_revision(connection, database.location) != REVISIONS[-1]:
            _migrate(connection)


def find_revision(
    connection: Connection, location: str, revisions: Sequence[str] = REVISIONS
) -> str | None:
    """Return a database's revision, or None where it has no tables yet."""
    tables = set(inspect(connection).get_table_names())
    if not tables & _OUR_TABLES and (not tables or connection.dialect.name != "sqlite"):
        return None
    if not tables >= _OUR_TABLES:
        raise RegistryError(
            f"{location} is a database, but not a prefreg registry. Name another file."
        )
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision in revisions:
        return str(revision)
    raise RegistryError(
        f"The registry {location} has schema {revision!r}, newer than this prefreg's "
        f"{revisions[-1]!r}. Upgrade prefreg."
    )


def _sqlite_code(error: BaseException | None) -> int:
    """Return SQLite's extended result code, or 0."""
    return getattr(error, "sqlite_errorcode", None) or 0


@contextmanager
def _explaining(location: str) -> Iterator[None]:
    """Turn failures of the database into `RegistryError`."""
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
    code = _sqlite_code(error.orig)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return _INTERRUPTED.format(location)
    if template := _BY_PRIMARY_CODE.get(code & 0xFF):
        return template.format(location, reason)
    state = getattr(error.orig, "sqlstate", None) or ("08" if error.connection_invalidated else "")
    for length in (5, 3, 2):
        if template := _BY_SQLSTATE.get(state[:length]):
            return template.format(location, _PROTOCOL.sub("", reason), _LOST)
    if code == 0 and isinstance(error, OperationalError):
        reason = _PROTOCOL.sub("", reason)
        return (
            f"The registry {location} cannot be reached: {reason}. "
            "Check host, port, database, user and password."
        )
    if code == 0 and isinstance(error, DatabaseError):
        return f"The registry {location} answered: {reason}. Check its address and state."
    return f"The registry {location} failed ({reason}). Run `prefreg verify` on it."


def _read_url(text: str) -> URL:
    try:
        url = make_url(text)
        if (url.port or 0) > _LAST_PORT:
            raise ValueError
    except (ArgumentError, ValueError) as error:  # a port that is no number is a ValueError
        raise RegistryError(
            f"{text!r} is not a database URL (its port is a number up to {_LAST_PORT}). Write "
            "sqlite:///registry.db, postgresql+psycopg://USER@HOST/DATABASE, or a plain path."
        ) from error
    return url


def _sqlite_path(url: URL) -> str:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:") or url.query:
        raise RegistryError(
            f"A registry is kept in a plain file, not in {str(url)!r}. "
            "Write sqlite:///registry.db, or a plain path."
        )
    return path


def _server_engine(url: URL, shown: str) -> Engine:
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    settings = {}
    if url.drivername == "postgresql+psycopg":
        settings = {name: each for name, each in _CONNECTING.items() if name not in url.query}
    try:
        # Connections are kept while the registry is open: making one takes as long as a command.
        return create_engine(url, connect_args=settings, pool_pre_ping=True, max_overflow=-1)
    except ImportError as error:
        extra = "prefreg[postgres]" if url.get_backend_name() == "postgresql" else error.name
        raise RegistryError(
            f"The registry {shown} cannot be reached: its database driver is not installed. "
            f"pip install '{extra}'."
        ) from error
    except ArgumentError as error:
        raise RegistryError(
            f"The registry {shown} cannot be reached: there is no such database ({error}). "
            "Write postgresql+psycopg://USER@HOST/DATABASE, or a plain path."
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
    if is_starter(path):
        raise RegistryError(
            f"{shown} ships with prefreg and is only read. Leave --registry out, or name another "
            "file: what ships lies beneath every registry."
        )
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
        if _sqlite_code(error) != sqlite3.SQLITE_READONLY_ROLLBACK:
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


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
