"""The way to a registry: where it lies, and the starter beneath it."""

import os
from dataclasses import dataclass
from pathlib import Path

from prefreg.config import (
    default_registry,
    is_starter,
    registry_setting,
    starter_registry,
    starter_wanted,
)
from prefreg.errors import RegistryError
from prefreg.registry.database import Database, file_of, is_filled
from prefreg.registry.store import Store
from prefreg.wording import hide_password


@dataclass(frozen=True, slots=True)
class Access:
    """The way to a registry: the one named, else `PREFREG_REGISTRY`, else `./registry.db`.

    Nothing is held open between steps, so that processes can share one registry.
    """

    location: str | Path | None = None
    starter: bool = False
    """Whether the vectors that ship with prefreg lie beneath, to be read."""
    blobs: str | None = None
    """The store that a new registry keeps its vectors in, and remembers."""

    @property
    def place(self) -> str:
        """Where the registry lies, without a password."""
        return hide_password(str(self._named() or default_registry()))

    def reading(self) -> Store:
        """Open for reading; the starter alone where no registry is named or present."""
        named = self._named()
        if named is None and not default_registry().exists():
            starter = self._starter()
            if starter is None:
                raise RegistryError(
                    f"There is no registry at {default_registry()}. "
                    "`prefreg add-axis NAME` creates one."
                )
            return Store.open(starter, write=False)
        return self._open(named or default_registry(), write=False)

    def writing(self) -> Store:
        """Open for writing; a registry that is missing is created."""
        return self._open(self._named() or default_registry(), write=True)

    def changing(self) -> Store:
        """Open for changing what the registry itself holds; a missing one is not created."""
        place = self._named() or default_registry()
        if "://" not in str(place) and not Path(place).exists():
            raise RegistryError(
                f"There is no registry at {place} to change. `prefreg add-axis NAME` creates one."
            )
        return self.writing()

    def is_present(self) -> bool:
        """Whether there is a registry to read, were it broken or not."""
        named = self._named()
        if named is None:
            return default_registry().exists() or self._starter() is not None
        return is_filled(named) if "://" in str(named) else Path(named).exists()

    def check(self) -> None:
        """Make sure, before work begins, that a version can be written.

        A file that is missing stays so, unless it is to remember a store.
        """
        place = self._named() or default_registry()
        if self.blobs is None and "://" not in str(place) and not Path(place).exists():
            Database.open(place, write=True, busy_timeout=0).close()
            return
        with self.writing() as store:
            store.check_place()

    def mark(self) -> tuple[object, ...] | None:
        """Return what is another after every change of the registry; None where nothing tells.

        Of a registry that is missing it is empty.
        """
        place = self._named() or default_registry()
        if "://" in str(place):
            return None  # a server
        starter = self._starter()
        if not Path(place).exists():
            return () if self._named() or starter is None else (_change(starter),)
        return tuple(_change(each) for each in (place, starter) if each is not None)

    def _open(self, place: str | Path, *, write: bool) -> Store:
        starter = self._starter()
        if starter is None or is_starter(place):
            return Store.open(place, write=write, blobs_at=self.blobs)
        beneath = Store.open(starter, write=False)
        try:
            return Store.open(place, write=write, beneath=beneath, blobs_at=self.blobs)
        except BaseException:
            beneath.close()
            raise

    def _named(self) -> str | Path | None:
        named = self.location if self.location is not None else registry_setting()
        return None if named is None else file_of(named)

    def _starter(self) -> Path | None:
        return starter_registry() if self.starter and starter_wanted() else None


def _change(database: str | Path) -> tuple[int, ...]:
    """Return which file a database is, and the counter in its head that every commit raises."""
    try:
        with Path(database).open("rb") as file:
            found = os.fstat(file.fileno())
            counter = int.from_bytes(file.read(28)[24:], "big")
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, counter
