"""Which registry is meant, opened for as long as one step takes."""

from dataclasses import dataclass
from pathlib import Path

from prefreg.config import default_registry, registry_setting, starter_registry
from prefreg.errors import RegistryError
from prefreg.registry import Store


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

    def _named(self) -> str | Path | None:
        return self.location if self.location is not None else registry_setting()
