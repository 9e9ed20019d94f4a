"""The store: versions, their bytes, aliases and bases, to read and to change."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from prefreg.errors import (
    NotStoredError,
    RegistryError,
    UsageError,
    VectorError,
    did_you_mean,
)
from prefreg.files import Source
from prefreg.registry import blobs, known_bases, listing, maintenance, names, presets, versions
from prefreg.registry.database import Database, check_schema, upgrade_schema
from prefreg.registry.places import find_place
from prefreg.registry.records import (
    GRACE,
    INLINE_LIMIT,
    AliasEvent,
    BaseIdentity,
    BaseRecord,
    Copied,
    DiskUse,
    GcReport,
    Measurement,
    NewVersion,
    Preset,
    Problem,
    VersionRecord,
    VersionSummary,
)
from prefreg.registry.schema import AxisRow, BlobRow, VersionRow
from prefreg.terms import TERM_FORM, Term

STARTER = "starter"
"""The alias of the newest version that ships with prefreg."""

Listed = TypeVar("Listed", bound=VersionSummary)


class Store:
    """A registry that is open, to read or to write.

    It holds no lock between calls, and may be shared by threads. An axis may be named by any
    of its aliases, a base by the fingerprint of its weights.

    Another may lie `beneath`, only to be read: the starter. What is here comes first, and hides
    what has the same name and number there; a version from there that is changed is taken over.
    """

    def __init__(
        self,
        database: Database,
        *,
        inline_limit: int,
        clock: Callable[[], datetime],
        beneath: "Store | None" = None,
        blobs_at: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Use `Store.open`."""
        self.database = database
        self.beneath = beneath
        if beneath is not None:
            beneath.database.starter = True
        self.now = clock
        self._find_place = partial(
            find_place, database, blobs_at, inline_limit=inline_limit, timeout=timeout
        )

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        write: bool,
        inline_limit: int = INLINE_LIMIT,
        busy_timeout: float = 30.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        beneath: "Store | None" = None,
        blobs_at: str | None = None,
    ) -> Self:
        """Open a path or SQLAlchemy URL; writing creates and upgrades, reading changes nothing.

        `blobs_at` names a store for the vectors of a new registry, which remembers it. Database
        and store may be busy or silent for `busy_timeout` seconds.
        """
        database = Database.open(location, write=write, busy_timeout=busy_timeout)
        try:
            (upgrade_schema if write else check_schema)(database)
        except BaseException:
            database.close()
            raise
        return cls(
            database,
            inline_limit=inline_limit,
            clock=clock,
            beneath=beneath,
            blobs_at=blobs_at,
            timeout=busy_timeout,
        )

    def close(self) -> None:
        """Let go of the database, and of the one beneath."""
        self.database.close()
        if self.beneath is not None:
            self.beneath.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def location(self) -> str:
        """The path or URL as it was given, without a password."""
        return self.database.location

    @cached_property
    def place(self) -> blobs.Place:
        """Where vectors lie that are too large for the database."""
        return self._find_place()

    def add(self, new: NewVersion, blob: Path) -> VersionRecord:
        """Add a version with the bytes of a file, all or nothing; the file stays the caller's."""
        with (
            blobs.stage(blob, self.place) as staged,
            self.database.writing() as session,
        ):
            row = blobs.store(session, staged, self.place)
            after = self._last_beneath(new.axis)
            return versions.insert_version(session, new, row, self.now(), after=after)

    def take(
        self,
        record: VersionRecord,
        source: Source,
        *,
        axis: str | None = None,
        renumber: bool = False,
    ) -> Copied:
        """Add a copy of a version of another registry, whose bytes are at hand.

        It keeps its number where that is free. A version with the same bytes on the same base is
        found again, not added twice.
        """
        wanted = axis or record.axis
        with (
            blobs.stage(source, self.place) as staged,
            self.database.writing() as session,
        ):
            if staged.sha256 != record.sha256:
                raise VectorError(
                    f"The bytes of {record} do not match their hash, so it is not copied. "
                    "`prefreg verify` of its registry says more."
                )
            name = names.canonical_name(session, wanted) or wanted
            found = versions.find_copy(session, record, name, renumber=renumber)
            if found is not None:
                return Copied(found, self.location, added=False)
            added = versions.insert_copy(
                session,
                record,
                name,
                blobs.store(session, staged, self.place),
                self.now(),
                number=None if renumber else record.number,
                after=self._last_beneath(name),
            )
            return Copied(added, self.location, added=True)

    def check_place(self) -> None:
        """Make sure that a vector can be put where it belongs, before anything is trained."""
        with blobs.reaching(f"{self.location} cannot keep a vector"):
            self.place.check()

    def check_names(self, axis: str, axis_aliases: Iterable[str]) -> None:
        """Refuse names that other axes bear, before anything is trained."""
        wanted = tuple(axis_aliases)
        with self.database.reading() as session:
            names.check_names(session, axis, wanted)
            known = names.canonical_name(session, axis) == axis
        if self.beneath is not None and not known:
            self.beneath.check_names(axis, wanted)

    def versions(self, axis: str | None = None, base: str | None = None) -> list[VersionRecord]:
        """Return full records, ordered by axis and number."""
        return self._list(listing.load_versions, axis, base)

    def summaries(self, axis: str | None = None, base: str | None = None) -> list[VersionSummary]:
        """Return versions without the records of their training, ordered by axis and number."""
        return self._list(listing.load_summaries, axis, base)

    def search(self, query: listing.Query) -> list[listing.Found]:
        """Return the versions that meet every condition of a query, ordered by axis and number."""
        with self.database.reading() as session:
            found = listing.find_versions(session, query)
        if self.beneath is not None:
            below = self.beneath.search(query)
            visible = self._visible([each.version for each in below])
            found += [each for each in below if each.version in visible]
            found.sort(key=lambda each: (each.version.axis, each.version.number))
        return found

    def resolve(
        self,
        axis: str,
        reference: str | None = None,
        *,
        base: str | None = None,
        at: datetime | None = None,
    ) -> VersionRecord:
        """Return the version that a number or an alias means; the newest without one.

        The newest is another form of a version only where there is nothing else. `at` asks for
        what was meant at a moment, of the versions that have not been removed. The alias
        `starter` means the newest version that ships with prefreg.
        """
        name = self.require(axis)
        layers = self._layers
        if reference == STARTER and (shipped := [each for each in layers if each.is_starter]):
            layers, reference = shipped, None
        elif reference is not None:  # a number is answered for by where it is
            layers = [each for each in layers if each._has(name, reference)][:1] or layers
        refusal: RegistryError | None = None
        for forms in (False, True) if reference is None else (True,):
            refusal = None
            for layer in layers:
                with layer.database.reading() as session:
                    if names.canonical_name(session, name) != name:
                        continue
                    try:
                        number = versions.choose_version(
                            session, name, reference,
                            base=base, at=at, location=layer.location, forms=forms,
                        )  # fmt: skip
                        return listing.load_version(session, name, number)
                    except RegistryError as error:
                        if refusal is None:
                            refusal = error
                        else:
                            more = versions.describe_places(session, name)
                            refusal = type(refusal)(f"{refusal} The starter has {more}.")
        if refusal is None:
            raise NotStoredError(f"The starter has no vector of axis {name!r}.")
        raise refusal

    def count(self) -> dict[str, int]:
        """Return the number of versions of every axis that has one, by name."""
        with self.database.reading() as session:
            counts = versions.count_versions(session)
        for version in self._visible([] if self.beneath is None else self.beneath.summaries()):
            counts[version.axis] = counts.get(version.axis, 0) + 1
        return dict(sorted(counts.items()))

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return every axis that has a version, with its aliases."""
        found: dict[str, tuple[str, ...]] = {}
        for layer in self._layers:
            with layer.database.reading() as session:
                for axis, aliases in names.axis_names(session).items():
                    found[axis] = tuple(dict.fromkeys((*found.get(axis, ()), *aliases)))
        return dict(sorted(found.items()))

    def canonical(self, name: str) -> str | None:
        """Return the axis that a name or alias stands for."""
        for layer in self._layers:
            with layer.database.reading() as session:
                found = names.canonical_name(session, name)
            if found is not None:
                return found
        return None

    def require(self, name: str) -> str:
        """Return the axis that a name or alias stands for, or say which there are."""
        found = self.canonical(name)
        if found is None:
            raise names.unknown_axis(name, self.axes(), self.location)
        return found

    def remove(self, axis: str, number: int, *, force: bool = False) -> None:
        """Remove a version; its number is never used again."""
        with self._changing(axis) as (session, name):
            versions.delete_version(session, name, number, force=force, now=self.now())

    def tag(
        self, axis: str, number: int, words: Iterable[str], *, remove: bool = False
    ) -> VersionRecord:
        """Give tags to a version, or take them away."""
        with self._changing(axis, number) as (session, name):
            row = versions.find_row(session, name, number)
            names.change_tags(session, row, words, remove=remove)
            return listing.load_version(session, name, number)

    def measure(self, axis: str, number: int, kind: str, value: Any, protocol: str) -> Measurement:
        """Append what was learned about a version."""
        measurement = Measurement(kind, value, protocol, self.now())
        with self._changing(axis, number) as (session, name):
            versions.append_measurement(versions.find_row(session, name, number), measurement)
        return measurement

    def vector_source(self, record: VersionRecord, *, rehash: bool = False) -> Source:
        """Return a vector's bytes, or what reads them once they are known to be unchanged.

        A file is hashed again where its size, mtime or inode changed, an object where its size or
        e-tag did, and each where `rehash` is set.
        """
        with self.database.reading() as session:
            row = session.get(BlobRow, record.sha256, options=[undefer(BlobRow.data)])
        if row is None and self.beneath is not None:
            return self.beneath.vector_source(record, rehash=rehash)
        if row is None:
            raise RegistryError(f"{record} is no longer in {self.location}: it was removed.")
        try:
            with blobs.reaching(f"The vector {record} of {self.location} cannot be read"):
                return blobs.read_source(row, self.place, rehash=rehash)
        except VectorError as error:
            raise VectorError(
                f"The vector {record} of {self.location} cannot be used: {error}. "
                "Restore it from a backup, or train it again."
            ) from error

    def rename_axis(self, old: str, new: str) -> str:
        """Rename an axis, whose old name becomes its alias; return the name it had."""
        with self._changing(old) as (session, name):
            names.rename_axis(session, name, new)
            return name

    def set_alias(self, axis: str, number: int, alias: str) -> None:
        """Point a version alias, for the version's base, at a version."""
        with self._changing(axis, number) as (session, name):
            version = versions.find_row(session, name, number)
            names.point_alias(session, version, alias, self.now())

    def delete_alias(self, axis: str, alias: str, base: str | None = None) -> None:
        """Delete a version alias; its history stays."""
        with self._changing(axis) as (session, name):
            names.drop_alias(session, name, alias, base, self.now())

    def alias_history(
        self, axis: str, alias: str | None = None, at: datetime | None = None
    ) -> list[AliasEvent]:
        """Return every change of an axis' version aliases until a moment, oldest first."""
        for layer in self._layers:
            with layer.database.reading() as session:
                # The name itself comes first: history outlives an axis' last version.
                known = session.scalar(select(AxisRow.name).where(AxisRow.name == axis))
                name = known or names.canonical_name(session, axis)
                if name is not None:
                    return names.read_history(session, name, alias, at)
        raise names.unknown_axis(axis, self.axes(), self.location)

    def save_preset(self, name: str, terms: Sequence[Term], note: str | None = None) -> Preset:
        """Save a setting under a name that no axis has, as a new version if it is another one."""
        wanted = self.check_preset(name, terms)
        with self.database.writing() as session:
            return presets.append_preset(session, name, wanted, note, self.now())

    def remove_preset(self, name: str) -> Preset:
        """Remove a preset with all its versions; return the newest."""
        with self.database.writing() as session:
            return presets.drop_preset(session, name, self.location, self.now())

    def presets(self, name: str | None = None) -> list[Preset]:
        """Return the newest version of every preset by name, or every version of one."""
        if "presets" in self.database.lacks:
            return []
        with self.database.reading() as session:
            return presets.list_presets(session, name)

    def preset(self, name: str, number: int | None = None, *, at: datetime | None = None) -> Preset:
        """Return a version of a preset, the newest (of a moment) without a number."""
        if "presets" in self.database.lacks:
            raise presets.unknown_preset(name, (), self.location)
        with self.database.reading() as session:
            return presets.choose_preset(session, name, number, self.location, at=at)

    def expand(self, terms: Sequence[Term], at: datetime | None = None) -> tuple[Term, ...]:
        """Put the terms of presets, at a moment if one is given, in the place of their names.

        Raises:
            UsageError: An axis is named twice, or a name without a coefficient is of no preset.
            RegistryError: A preset names an axis or a version that was removed.
        """
        found: dict[str, tuple[Term, Term]] = {}
        for term in terms:
            for each in self._expand(term, at) if term.preset else (term,):
                axis = self.canonical(each.axis)
                if axis is None and not term.preset and self.presets(each.axis):
                    raise UsageError(
                        f"{each.axis!r} is a preset, no axis: where terms are taken, it stands "
                        "without a coefficient."
                    )
                axis = axis or each.axis
                if axis in found:
                    raise UsageError(_describe_twice(axis, *found[axis], term))
                found[axis] = (term, each)
        return tuple(each for _, each in found.values())

    def _expand(self, term: Term, at: datetime | None) -> tuple[Term, ...]:
        name = term.axis
        if self.canonical(name) is not None:
            raise UsageError(f"{str(term)!r} is not a term. {TERM_FORM}")
        if not self.presets(name):
            known = [each.name for each in self.presets()]
            there = f"There are: {', '.join(known)}." if known else "There is none yet."
            raise UsageError(
                f"{str(term)!r} is not a term, nor the name of a preset. {there}"
                f"{did_you_mean(name, [*known, *self.axes()])} {TERM_FORM}"
            )
        preset = self.preset(name, None if term.reference is None else int(term.reference), at=at)
        for each in preset.terms:
            try:
                self.resolve(each.axis, each.reference)
            except RegistryError as error:
                raise RegistryError(f"The preset {preset} cannot be used: {error}") from error
        return preset.terms

    def check_preset(self, name: str, terms: Sequence[Term]) -> list[Term]:
        """Return the terms of a preset, ordered by axis, if name, axes and versions are right."""
        presets.check_preset_name(name)
        if (axis := self.canonical(name)) is not None:
            also = "" if axis == name else f" (an alias of {axis!r})"
            raise RegistryError(f"{name!r} is an axis{also}. Use another name for the preset.")
        checked = []
        for term in self.expand(terms):
            axis = self.resolve(term.axis, term.reference).axis
            if not term.eta:
                raise UsageError(f"{term} sets nothing: leave it out of the preset.")
            checked.append(replace(term, axis=axis))
        if not checked:
            raise UsageError("A preset needs at least one term, as in helpful:0.6.")
        return sorted(checked, key=lambda term: term.axis)

    def bases(self) -> list[BaseRecord]:
        """Return every known base model, by name."""
        found: dict[str, BaseRecord] = {}
        for layer in self._layers:
            with layer.database.reading() as session:
                for base in known_bases.list_bases(session):
                    found.setdefault(base.weights, base)
        return sorted(found.values(), key=lambda base: base.name)

    def base(self, weights: str) -> BaseRecord | None:
        """Return the base model with a fingerprint."""
        with self.database.reading() as session:
            found = known_bases.find_base(session, weights)
        return found or (self.beneath.base(weights) if self.beneath else None)

    def last_base(self) -> BaseRecord | None:
        """Return the base model of one's own newest version or registration."""
        if self.is_starter:
            return None
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
        return maintenance.verify_registry(self.database, self.place)

    def gc(self, grace: float = GRACE) -> GcReport:
        """Delete bytes that no version refers to; of a store, those older than `grace` seconds."""
        return maintenance.collect_garbage(self.database, self.place, grace)

    def disk_use(self) -> DiskUse:
        """Say what the registry takes on the disk."""
        return maintenance.measure_disk(self.database, self.place)

    @property
    def is_starter(self) -> bool:
        """Whether it is the registry that ships with prefreg."""
        return self.database.starter

    @property
    def _layers(self) -> "list[Store]":
        return [self] if self.beneath is None else [self, self.beneath]

    def _list(
        self, load: Callable[..., list[Listed]], axis: str | None, base: str | None
    ) -> list[Listed]:
        conditions = [] if base is None else [listing.on_base(base)]
        if axis is not None:
            conditions.append(listing.of_axis(self.require(axis)))
        with self.database.reading() as session:
            found = load(session, *conditions)
        if self.beneath is not None:
            with self.beneath.database.reading() as session:
                found += self._visible(load(session, *conditions))
            found.sort(key=lambda version: (version.axis, version.number))
        return found

    def _visible(self, below: Sequence[Listed]) -> list[Listed]:
        """Leave out what lies beneath a version of the same name and number."""
        if not below:
            return []
        with self.database.reading() as session:
            rows = session.execute(
                select(AxisRow.name, VersionRow.number)
                .join(VersionRow.axis)
                .where(
                    AxisRow.name.in_({version.axis for version in below}),
                    VersionRow.number.in_({version.number for version in below}),
                )
            )
            here = {(axis, number) for axis, number in rows}
        return [version for version in below if (version.axis, version.number) not in here]

    def _has(self, axis: str, reference: str) -> bool:
        number = versions.read_number(reference)
        with self.database.reading() as session:
            return number is not None and versions.has_version(session, axis, number)

    def _last_beneath(self, axis: str) -> int:
        if self.beneath is None:
            return 0
        with self.beneath.database.reading() as session:
            return versions.last_number(session, axis)

    @contextmanager
    def _changing(self, axis: str, number: int | None = None) -> Iterator[tuple[Session, str]]:
        """Hold the write lock for an axis that is here; a numbered version is taken over first."""
        name = self.require(axis)
        if number is not None and self.beneath is not None:
            self._take_over(self.beneath, name, number)
        with self.database.writing() as session:
            if names.canonical_name(session, name) != name:
                raise RegistryError(
                    f"{name!r} ships with prefreg, and {self.location} has no version of it to "
                    f"change. `prefreg copy {name} --to {self.location}` makes it yours; "
                    "--no-starter leaves out what ships."
                )
            yield session, name

    def _take_over(self, beneath: "Store", axis: str, number: int) -> None:
        if self._has(axis, str(number)) or not beneath._has(axis, str(number)):
            return
        record = beneath.resolve(axis, str(number))
        with (
            blobs.stage(beneath.vector_source(record), self.place) as staged,
            self.database.writing() as session,
        ):
            if not versions.has_version(session, axis, number):  # nor taken over meanwhile
                blob = blobs.store(session, staged, self.place)
                versions.insert_copy(session, record, axis, blob, self.now(), number=number)


def _describe_twice(axis: str, first: Term, meant: Term, second: Term) -> str:
    """Say who names an axis twice: a term that means it, of itself or by a preset, and another."""
    presets = [f"{each.axis!r}" for each in (first, second) if each.preset]
    if presets:
        also = f" (the preset {' and the preset '.join(presets)} sets it)"
    else:
        also = "" if meant.axis == axis else f" ({meant.axis!r} is its alias)"
    return f"The axis {axis!r} is named twice{also}; give it one term."
