"""The store: everything that can be asked of a registry, or done to it."""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import select
from sqlalchemy.orm import undefer

from prefreg.errors import RegistryError, VectorError
from prefreg.registry import (
    aliases,
    backup,
    bases,
    blobs,
    copying,
    maintenance,
    names,
    renaming,
    tags,
    versions,
)
from prefreg.registry.migrating import check_schema, upgrade_schema
from prefreg.registry.opening import Database
from prefreg.registry.records import (
    INLINE_LIMIT,
    AliasEvent,
    BaseIdentity,
    BaseRecord,
    GcReport,
    Measurement,
    NewVersion,
    Problem,
    VersionRecord,
)
from prefreg.registry.schema import AxisRow, BaseRow, BlobRow


def _now() -> datetime:
    return datetime.now(UTC)


class Store:
    """A registry that is open, to read or to write.

    It holds no lock between calls, and may be shared by threads. An axis may be named by any
    of its aliases, a base by the fingerprint of its weights.
    """

    def __init__(
        self, database: Database, *, inline_limit: int, clock: Callable[[], datetime]
    ) -> None:
        """Use `Store.open`."""
        self._database = database
        self._folder = blobs.blob_folder(database.path) if database.path else None
        self._inline_limit = inline_limit
        self._clock = clock

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        write: bool,
        inline_limit: int = INLINE_LIMIT,
        busy_timeout: float = 30.0,
        clock: Callable[[], datetime] = _now,
    ) -> Self:
        """Open a path or SQLAlchemy URL; writing creates and upgrades, reading changes nothing.

        Raises:
            RegistryError: It is missing, read-only, of another schema, or no registry.
        """
        database = Database.open(location, write=write, busy_timeout=busy_timeout)
        try:
            (upgrade_schema if write else check_schema)(database)
        except BaseException:
            database.close()
            raise
        return cls(database, inline_limit=inline_limit, clock=clock)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def location(self) -> str:
        """The path or URL as it was given, without a password."""
        return self._database.location

    def add(self, new: NewVersion, blob: Path) -> VersionRecord:
        """Add a version with the bytes of a file, all or nothing; the file stays the caller's.

        Raises:
            UsageError: A name is malformed.
            RegistryError: A name belongs to another axis, or there is no space.
        """
        with (
            blobs.stage(blob, self._folder, self._inline_limit) as staged,
            self._database.writing() as session,
        ):
            row = blobs.store(session, staged, self._folder)
            return versions.insert_version(session, new, row, self._clock())

    def check_names(self, axis: str, axis_aliases: Iterable[str]) -> None:
        """Refuse names that other axes bear, before anything is trained.

        Raises:
            UsageError: A name is malformed.
            RegistryError: A name belongs to another axis.
        """
        with self._database.reading() as session:
            names.check_names(session, axis, axis_aliases)

    def versions(self, axis: str | None = None, base: str | None = None) -> list[VersionRecord]:
        """Return versions, ordered by axis and number.

        Raises:
            RegistryError: There is no such axis.
        """
        with self._database.reading() as session:
            conditions = [] if base is None else [BaseRow.weights == base]
            if axis is not None:
                name = names.require_axis(session, axis, self.location)
                conditions.append(AxisRow.name == name)
            return versions.load_versions(session, *conditions)

    def resolve(
        self, axis: str, reference: str | None = None, *, base: str | None = None
    ) -> VersionRecord:
        """Return the version that a number or an alias means; the newest without one.

        Raises:
            RegistryError: There is no such axis or version, or several could be meant.
        """
        with self._database.reading() as session:
            name = names.require_axis(session, axis, self.location)
            number = names.choose_version(session, name, reference, base, self.location)
            return versions.load_version(session, name, number)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return every axis that has a version, with its aliases."""
        with self._database.reading() as session:
            return names.axis_names(session)

    def canonical(self, name: str) -> str | None:
        """Return the axis that a name or alias stands for."""
        with self._database.reading() as session:
            return names.canonical_name(session, name)

    def remove(self, axis: str, number: int, *, force: bool = False) -> None:
        """Remove a version; its number is never used again.

        Raises:
            RegistryError: There is no such version, or an alias points to it (without force).
        """
        with self._database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            versions.delete_version(session, name, number, force=force, now=self._clock())

    def measure(self, axis: str, number: int, kind: str, value: Any, protocol: str) -> Measurement:
        """Append what was learned about a version.

        Raises:
            RegistryError: There is no such version.
        """
        measurement = Measurement(kind, value, protocol, self._clock())
        with self._database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            versions.append_measurement(versions.find_row(session, name, number), measurement)
        return measurement

    def vector_source(self, record: VersionRecord, *, rehash: bool = False) -> bytes | Path:
        """Return a vector's bytes, or the path of its file once that is known to be unchanged.

        A file is hashed again where its size, mtime or inode changed, or `rehash` is set.

        Raises:
            RegistryError: The version was removed meanwhile.
            VectorError: The bytes are missing or do not match their hash.
        """
        with self._database.reading() as session:
            row = session.get(BlobRow, record.sha256, options=[undefer(BlobRow.data)])
        if row is None:
            raise RegistryError(f"{record} is no longer in {self.location}: it was removed.")
        try:
            return blobs.read_source(row, self._folder, rehash=rehash)
        except VectorError as error:
            raise VectorError(
                f"The vector {record} of {self.location} cannot be used: {error}. "
                "Restore it from a backup, or train it again."
            ) from error

    def rename_axis(self, old: str, new: str) -> str:
        """Rename an axis, whose old name becomes its alias; return the name it had.

        Raises:
            UsageError: The new name is malformed.
            RegistryError: There is no such axis, or the name is taken.
        """
        with self._database.writing() as session:
            name = names.require_axis(session, old, self.location)
            renaming.rename_axis(session, name, new)
            return name

    def tag(
        self, axis: str, number: int, words: Iterable[str], *, remove: bool = False
    ) -> VersionRecord:
        """Give tags to a version, or take them away.

        Raises:
            UsageError: A tag is malformed.
            RegistryError: There is no such version.
        """
        with self._database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            tags.change_tags(
                session, versions.find_row(session, name, number), words, remove=remove
            )
            return versions.load_version(session, name, number)

    def copy_to(
        self,
        target: "Store",
        record: VersionRecord,
        *,
        axis: str | None = None,
        renumber: bool = False,
    ) -> copying.Copied:
        """Copy a version of this registry into another, under its number where that is free.

        A version with the same bytes on the same base is found again, not added twice.

        Raises:
            UsageError: The name is malformed.
            RegistryError: The number or a name is taken there, or the target cannot be written.
            VectorError: The bytes are missing or do not match their hash.
        """
        source = self.vector_source(record, rehash=True)
        name = target.canonical(axis or record.axis) or axis or record.axis
        with (
            blobs.stage(source, target._folder, target._inline_limit) as staged,
            target._database.writing() as session,
        ):
            if staged.sha256 != record.sha256:
                raise VectorError(f"The bytes of {record} changed while they were copied.")
            found = copying.find_copy(session, record, name, renumber=renumber)
            if found is not None:
                return copying.Copied(found, added=False)
            row = blobs.store(session, staged, target._folder)
            now = target._clock()
            added = copying.insert_copy(session, record, name, row, now, renumber=renumber)
            return copying.Copied(added, added=True)

    def back_up(self, target: Path, *, overwrite: bool = False) -> backup.Backup:
        """Write a verified snapshot to an SQLite file, with its vectors beside it.

        Raises:
            RegistryError: The target is in the way, or the registry is damaged.
        """
        return backup.back_up(self._database, self._folder, target, overwrite=overwrite)

    def set_alias(self, axis: str, number: int, alias: str) -> None:
        """Point a version alias, for the version's base, at a version.

        Raises:
            UsageError: The alias is malformed.
            RegistryError: There is no such version.
        """
        with self._database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            version = versions.find_row(session, name, number)
            aliases.point_alias(session, version, alias, self._clock())

    def delete_alias(self, axis: str, alias: str, base: str | None = None) -> None:
        """Delete a version alias; its history stays.

        Raises:
            RegistryError: There is no such alias, or it is set for several bases.
        """
        with self._database.writing() as session:
            name = names.require_axis(session, axis, self.location)
            aliases.drop_alias(session, name, alias, base, self._clock())

    def alias_history(self, axis: str) -> list[AliasEvent]:
        """Return every change of an axis' version aliases, oldest first.

        Raises:
            RegistryError: There is no such axis, now or earlier.
        """
        with self._database.reading() as session:
            # The name itself comes first: history outlives an axis' last version.
            known = session.scalar(select(AxisRow.name).where(AxisRow.name == axis))
            name = known or names.require_axis(session, axis, self.location)
            return aliases.read_history(session, name)

    def bases(self) -> list[BaseRecord]:
        """Return every known base model, by name."""
        with self._database.reading() as session:
            return bases.list_bases(session)

    def base(self, weights: str) -> BaseRecord | None:
        """Return the base model with a fingerprint."""
        with self._database.reading() as session:
            return bases.find_base(session, weights)

    def last_base(self) -> BaseRecord | None:
        """Return the base model of the newest version or registration."""
        with self._database.reading() as session:
            return bases.last_base(session)

    def register_base(self, identity: BaseIdentity) -> BaseRecord:
        """Add a base model, or note how and where a known one was seen this time."""
        with self._database.writing() as session:
            return bases.record_base(bases.keep_base(session, identity, self._clock()))

    def relocate_base(self, weights: str, path: str | os.PathLike[str]) -> BaseRecord:
        """Note that a base model lies elsewhere now.

        Raises:
            RegistryError: The base is not known.
        """
        with self._database.writing() as session:
            return bases.move_base(session, weights, os.fspath(path), self.location)

    def verify(self) -> list[Problem]:
        """Check the database and every byte against its hash.

        Raises:
            RegistryError: The database is too damaged to be read at all.
        """
        return maintenance.verify_registry(self._database, self._folder)

    def gc(self) -> GcReport:
        """Delete bytes that no version refers to.

        Raises:
            RegistryError: Something cannot be deleted.
        """
        return maintenance.collect_garbage(self._database, self._folder)
