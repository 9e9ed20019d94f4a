"""The schema's revision: checked before every use, raised under the write lock."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from prefreg.errors import RegistryError
from prefreg.registry.opening import Database

REVISIONS = ("0001", "0002", "0003")
"""Every revision, oldest first; known here so that reading needs no Alembic."""

_OUR_TABLES = frozenset({"alembic_version", "axes", "blobs", "versions"})
_FIRST_WITH_TAGS = "0002"


def check_schema(database: Database, revisions: Sequence[str] = REVISIONS) -> None:
    """Make sure that a registry can be read as it is; an older schema can.

    Raises:
        RegistryError: It is empty, of another schema, or something else.
    """
    with database.reading() as session:
        revision = find_revision(session.connection(), database.location, revisions)
    if revision is None:
        raise RegistryError(
            f"The registry {database.location} is empty: it has no tables yet. "
            "`prefreg add-axis NAME` fills it."
        )
    database.has_tags = revisions.index(revision) >= revisions.index(_FIRST_WITH_TAGS)


def upgrade_schema(database: Database) -> None:
    """Create the tables, or bring them to the newest revision, unless they are there.

    Raises:
        RegistryError: The database is of a newer schema, or something else.
    """
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
    """Return a database's revision, or None where it has no tables yet.

    Raises:
        RegistryError: It is newer than ours, or the tables are of something else.
    """
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


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
