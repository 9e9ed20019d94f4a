"""Changes to what is stored: aliases, tags, names, copies, removal."""

from pathlib import Path
from typing import TYPE_CHECKING

from prefreg.api.opened import Opened
from prefreg.registry import GcReport, VersionRecord

if TYPE_CHECKING:
    from prefreg.registry.transfer import Backup, Copied


class Keeping(Opened):
    """Change what the registry holds."""

    def alias(self, axis: str, number: int, alias: str) -> VersionRecord:
        """Point a version alias at a version; the alias's history is kept."""
        with self.access.changing() as store:
            store.set_alias(axis, number, alias)
            return store.resolve(axis, str(number))

    def unalias(self, axis: str, alias: str, *, base: str | None = None) -> None:
        """Delete a version alias; its history is kept."""
        from prefreg.composition.resolve import weights_of

        with self.access.changing() as store:
            store.delete_alias(axis, alias, weights_of(store, base))

    def tag(
        self, axis: str, reference: str | int, *tags: str, remove: bool = False
    ) -> VersionRecord:
        """Give tags to a version, or take them away."""

        with self.access.changing() as store:
            record = store.resolve(axis, str(reference))
            return store.tag(record.axis, record.number, tags, remove=remove)

    def rename(self, old: str, new: str) -> str:
        """Rename an axis, whose old name goes on meaning it; return the name it had."""

        with self.access.changing() as store:
            return store.rename_axis(old, new)

    def copy(
        self,
        axis: str,
        reference: str | int | None,
        to: str | Path,
        *,
        name: str | None = None,
        renumber: bool = False,
    ) -> "Copied":
        """Copy a version with its record to another registry, which is created if need be."""
        from prefreg.registry.transfer import copy_version

        number = None if reference is None else str(reference)
        return copy_version(self.access, (axis, number), to, name=name, renumber=renumber)

    def backup(self, file: str | Path, *, overwrite: bool = False) -> "Backup":
        """Write a verified snapshot to an SQLite file, while others may write."""
        from prefreg.registry import transfer

        with self.access.reading() as store:
            return transfer.back_up(store, Path(file), overwrite=overwrite)

    def remove(self, axis: str, number: int, *, force: bool = False) -> VersionRecord:
        """Remove a version; one that an alias names only with `force`."""
        with self.access.changing() as store:
            record = store.resolve(axis, str(number))
            store.remove(axis, number, force=force)
            return record

    def gc(self) -> GcReport:
        """Remove the bytes that no version needs."""
        with self.access.changing() as store:
            return store.gc()
