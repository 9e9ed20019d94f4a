"""What the registry knows: versions, bases and their history."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prefreg.api.opened import Opened
from prefreg.registry import AliasEvent, BaseRecord, DiskUse, Problem, VersionRecord, VersionSummary
from prefreg.registry.records import Moment, as_moment
from prefreg.terms import parse_reference

if TYPE_CHECKING:
    from prefreg.evaluation.compare import Comparison
    from prefreg.registry.listing import Found


class Reading(Opened):
    """Read what the registry holds."""

    def vectors(self, axis: str | None = None) -> list[VersionRecord]:
        """Return the full records of an axis, or all, ordered by axis and number."""
        with self.access.reading() as store:
            return store.versions(axis)

    def summaries(self, axis: str | None = None) -> list[VersionSummary]:
        """Return the versions without the records of their training, which is fast."""
        with self.access.reading() as store:
            return store.summaries(axis)

    def search(
        self,
        text: str | None = None,
        *,
        tags: Iterable[str] = (),
        note: str | None = None,
        base: str | None = None,
        metrics: Iterable[str] = (),
    ) -> "list[Found]":
        """Find versions by words, tags, notes, bases, and bounds such as `accuracy>=0.7`."""
        from prefreg.registry.listing import Query, parse_metric

        query = Query(text, tuple(tags), note, base, tuple(map(parse_metric, metrics)))
        with self.access.reading() as store:
            return store.search(query)

    def show(
        self,
        axis: str,
        reference: str | None = None,
        *,
        base: str | None = None,
        at: Moment | None = None,
    ) -> VersionRecord:
        """Return the full record of one version; the newest without a reference.

        With `at`, what the reference meant then, of the versions that have not been removed.
        """
        from prefreg.composition.resolve import weights_of

        with self.access.reading() as store:
            weights = weights_of(store, base)
            return store.resolve(axis, reference, base=weights, at=as_moment(at))

    def diff(self, first: str, second: str) -> "Comparison":
        """Compare two versions, each as in `helpful@1`: their records and their vectors."""
        from prefreg.evaluation.compare import compare_versions

        return compare_versions(self.access, parse_reference(first), parse_reference(second))

    def bases(self) -> list[BaseRecord]:
        """Return the base models that the registry knows."""
        with self.access.reading() as store:
            return store.bases()

    def alias_history(
        self, axis: str, alias: str | None = None, *, at: Moment | None = None
    ) -> list[AliasEvent]:
        """Return what happened to the version aliases of an axis, oldest first, until `at`."""
        with self.access.reading() as store:
            return store.alias_history(axis, alias, as_moment(at))

    def disk_use(self) -> DiskUse:
        """Say what the registry takes on the disk."""
        with self.access.reading() as store:
            return store.disk_use()

    def verify(self) -> list[Problem]:
        """Check every byte against its hash and every row against its bytes."""
        with self.access.reading() as store:
            return store.verify()
