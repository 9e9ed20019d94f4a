"""The store: versions, their bytes, aliases and bases, to read and to change; and the way to it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, undefer

from prefreg.config import default_registry, registry_setting, starter_registry
from prefreg.errors import RegistryError, VectorError
from prefreg.registry import blobs, known_bases, listing, maintenance, names, versions
from prefreg.registry.database import Database, check_schema, file_of, upgrade_schema
from prefreg.registry.records import (
    INLINE_LIMIT,
    AliasEvent,
    BaseIdentity,
    BaseRecord,
    DiskUse,
    GcReport,
    Measurement,
    NewVersion,
    Problem,
    VersionRecord,
    VersionSummary,
)
from prefreg.registry.schema import AxisRow, BlobRow


class Store:
    """A registry that is open, to read or to write.

    It holds no lock between calls, and may be shared by threads. An axis may be named by any
    of its aliases, a base by the fingerprint of its weights.
    """

    def __init__(
        self, database: Database, *, inline_limit: int, clock: Callable[[], datetime]
    ) -> None:
        """Use `Store.open`."""
        self.database = database
        self.folder = blobs.blob_folder(database.path) if database.path else None
        """Where vectors lie that are too large for the database; on a server none is."""
        self.inline_limit = inline_limit
        self.now = clock

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        write: bool,
        inline_limit: int = INLINE_LIMIT,
        busy_timeout: float = 30.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Self:
        """Open a path or SQLAlchemy URL; writing creates and upgrades, reading changes nothing."""
        database = Database.open(location, write=write, busy_timeout=busy_timeout)
        try:
            (upgrade_schema if write else check_schema)(database)
        except BaseException:
            database.close()
            raise
        return cls(database, inline_limit=inline_limit, clock=clock)

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def location(self) -> str:
        """The path or URL as it was given, without a password."""
        return self.database.location

    def add(self, new: NewVersion, blob: Path) -> VersionRecord:
        """Add a version with the bytes of a file, all or nothing; the file stays the caller's."""
        with (
            blobs.stage(blob, self.folder, self.inline_limit) as staged,
            self.database.writing() as session,
        ):
            row = blobs.store(session, staged, self.folder)
            return versions.insert_version(session, new, row, self.now())

    def check_names(self, axis: str, axis_aliases: Iterable[str]) -> None:
        """Refuse names that other axes bear, before anything is trained."""
        with self.database.reading() as session:
            names.check_names(session, axis, axis_aliases)

    def versions(self, axis: str | None = None, base: str | None = None) -> list[VersionRecord]:
        """Return full records, ordered by axis and number."""
        with self.database.reading() as session:
            return listing.load_versions(session, *self._which(session, axis, base))

    def summaries(self, axis: str | None = None, base: str | None = None) -> list[VersionSummary]:
        """Return versions without the records of their training, ordered by axis and number."""
        with self.database.reading() as session:
            return listing.load_summaries(session, *self._which(session, axis, base))

    def _which(
        self, session: Session, axis: str | None, base: str | None
    ) -> list[ColumnElement[bool]]:
        conditions = [] if base is None else [listing.on_base(base)]
        if axis is not None:
            conditions.append(listing.of_axis(names.require_axis(session, axis, self.location)))
        return conditions

    def search(self, query: listing.Query) -> list[listing.Found]:
        """Return the versions that meet every condition of a query, ordered by axis and number."""
        with self.database.reading() as session:
            return listing.find_versions(session, query)

    def resolve(
        self,
        axis: str,
        reference: str | None = None,
        *,
        base: str | None = None,
        at: datetime | None = None,
    ) -> VersionRecord:
        """Return the version that a number or an alias means; the newest without one.

        `at` asks for what was meant at a moment, of the versions that have not been removed.
        """
        with self.database.reading() as session:
            name = names.require_axis(session, axis, self.location)
            number = versions.choose_version(
                session, name, reference, base=base, at=at, location=self.location
            )
            return listing.load_version(session, name, number)

    def count(self) -> dict[str, int]:
        """Return the number of versions of every axis that has one."""
        with self.database.reading() as session:
            return versions.count_versions(session)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return every axis that has a version, with its aliases."""
        with self.database.reading() as session:
            return names.axis_names(session)

    def canonical(self, name: str) -> str | None:
        """Return the axis that a name or alias stands for."""
        with self.database.reading() as session:
            return names.canonical_name(session, name)

    def remove(self, axis: str, number: int, *, force: bool = False) -> None:
        """Remove a version; its number is never used again."""
        with self.database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            versions.delete_version(session, name, number, force=force, now=self.now())

    def tag(
        self, axis: str, number: int, words: Iterable[str], *, remove: bool = False
    ) -> VersionRecord:
        """Give tags to a version, or take them away."""
        with self.database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            row = versions.find_row(session, name, number)
            names.change_tags(session, row, words, remove=remove)
            return listing.load_version(session, name, number)

    def measure(self, axis: str, number: int, kind: str, value: Any, protocol: str) -> Measurement:
        """Append what was learned about a version."""
        measurement = Measurement(kind, value, protocol, self.now())
        with self.database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            versions.append_measurement(versions.find_row(session, name, number), measurement)
        return measurement

    def vector_source(self, record: VersionRecord, *, rehash: bool = False) -> bytes | Path:
        """Return a vector's bytes, or the path of its file once that is known to be unchanged.

        A file is hashed again where its size, mtime or inode changed, or `rehash` is set.
        """
        with self.database.reading() as session:
            row = session.get(BlobRow, record.sha256, options=[undefer(BlobRow.data)])
        if row is None:
            raise RegistryError(f"{record} is no longer in {self.location}: it was removed.")
        try:
            return blobs.read_source(row, self.folder, rehash=rehash)
        except VectorError as error:
            raise VectorError(
                f"The vector {record} of {self.location} cannot be used: {error}. "
                "Restore it from a backup, or train it again."
            ) from error

    def rename_axis(self, old: str, new: str) -> str:
        """Rename an axis, whose old name becomes its alias; return the name it had."""
        with self.database.writing() as session:
            name = names.require_axis(session, old, self.location)
            names.rename_axis(session, name, new)
            return name

    def set_alias(self, axis: str, number: int, alias: str) -> None:
        """Point a version alias, for the version's base, at a version."""
        with self.database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            version = versions.find_row(session, name, number)
            names.point_alias(session, version, alias, self.now())

    def delete_alias(self, axis: str, alias: str, base: str | None = None) -> None:
        """Delete a version alias; its history stays."""
        with self.database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            names.drop_alias(session, name, alias, base, self.now())

    def alias_history(
        self, axis: str, alias: str | None = None, at: datetime | None = None
    ) -> list[AliasEvent]:
        """Return every change of an axis' version aliases until a moment, oldest first."""
        with self.database.reading() as session:
            # The name itself comes first: history outlives an axis' last version.
            known = session.scalar(select(AxisRow.name).where(AxisRow.name == axis))
            name = known or names.require_axis(session, axis, self.location)
            return names.read_history(session, name, alias, at)

    def bases(self) -> list[BaseRecord]:
        """Return every known base model, by name."""
        with self.database.reading() as session:
            return known_bases.list_bases(session)

    def base(self, weights: str) -> BaseRecord | None:
        """Return the base model with a fingerprint."""
        with self.database.reading() as session:
            return known_bases.find_base(session, weights)

    def last_base(self) -> BaseRecord | None:
        """Return the base model of the newest version or registration."""
        with self.database.reading() as session:
            return known_bases.last_base(session)

    def register_base(self, identity: BaseIdentity) -> BaseRecord:
        """Add a base model, or note how and where a known one was seen this time."""
        with self.database.writing() as session:
            return known_bases.record_base(known_bases.keep_base(session, identity, self.now()))

    def relocate_base(self, weights: str, path: str | os.PathLike[str]) -> BaseRecord:
        """Note that a base model lies elsewhere now."""
        with self.database.writing() as session:
            return known_bases.move_base(session, weights, os.fspath(path), self.location)

    def verify(self) -> list[Problem]:
        """Check the database and every byte against its hash."""
        return maintenance.verify_registry(self.database, self.folder)

    def gc(self) -> GcReport:
        """Delete bytes that no version refers to."""
        return maintenance.collect_garbage(self.database, self.folder)

    def disk_use(self) -> DiskUse:
        """Say what the registry takes on the disk."""
        return maintenance.measure_disk(self.database, self.folder)


@dataclass(frozen=True, slots=True)
class Access:
    """The way to a registry: the one named, else `PREFREG_REGISTRY`, else `./registry.db`.

    Nothing is held open between steps, so that processes can share one registry.
    """

    location: str | Path | None = None

    def reading(self) -> Store:
        """Open for reading; the starter stands in where no registry is named or present."""
        named = self._named()
        if named is not None:
            return Store.open(named, write=False)
        if default_registry().exists():
            return Store.open(default_registry(), write=False)
        starter = starter_registry()
        if starter is None:
            raise RegistryError(
                f"There is no registry at {default_registry()}. "
                "`prefreg add-axis NAME` creates one."
            )
        return Store.open(starter, write=False)

    def writing(self) -> Store:
        """Open for writing; a registry that is missing is created."""
        return Store.open(self._named() or default_registry(), write=True)

    def changing(self) -> Store:
        """Open for changing what is there; an empty registry would only hide the starter."""
        named = self._named() or default_registry()
        if "://" not in str(named) and not Path(named).exists():
            raise RegistryError(
                f"There is no registry at {named} to change. `prefreg add-axis NAME` creates one."
            )
        return self.writing()

    def is_present(self) -> bool:
        """Whether there is a registry to read, were it broken or not."""
        named = self._named()
        if named is None:
            return default_registry().exists() or starter_registry() is not None
        return "://" in str(named) or Path(named).exists()

    def _named(self) -> str | os.PathLike[str] | None:
        named = self.location if self.location is not None else registry_setting()
        return None if named is None else file_of(named)
