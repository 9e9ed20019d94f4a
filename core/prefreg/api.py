"""The Python API: a registry with everything that the command line does.

In short:

    import prefreg

    registry = prefreg.open("registry.db")
    registry.compose({"helpful": 1, "harmless": 0.5}, "out")
    registry.load("pocket").set(helpful=1).generate("What colour is the boat?")
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.errors import UsageError
from prefreg.flows.access import Access
from prefreg.plugins import InstalledAxis, Plugin, load_axes
from prefreg.registry import (
    AliasEvent,
    BaseRecord,
    DiskUse,
    GcReport,
    Problem,
    VersionRecord,
    VersionSummary,
)
from prefreg.registry.moments import Moment, as_moment
from prefreg.terms import Term, as_terms, parse_reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefreg.flows.add_axis import AxisPreview
    from prefreg.flows.axis_request import AxisRequest
    from prefreg.flows.compare import Comparison
    from prefreg.flows.compose import Composed, CompositionPlan, CompositionRequest
    from prefreg.flows.compose_adapter import AdapterResult
    from prefreg.flows.exporting import Exported, ExportRequest
    from prefreg.flows.importing import ImportRequest
    from prefreg.flows.sft import SFTRequest, SFTResult
    from prefreg.registry.backup import Backup
    from prefreg.registry.copying import Copied
    from prefreg.registry.searching import Found
    from prefreg.serving import SteeredModel
    from prefreg.training import Progress

Terms = Mapping[str, float] | Iterable[str | Term]


def open(location: str | Path | None = None) -> "Registry":
    """Open a registry by its path or SQLAlchemy URL.

    Without a location: `PREFREG_REGISTRY`, else `./registry.db`, else, for reading, the starter
    that ships with prefreg. The first write creates what is missing.
    """
    return Registry(location)


@contextmanager
def steer(
    model: "PreTrainedModel",
    *,
    registry: "str | Path | Registry | None" = None,
    base: str | None = None,
    terms: Terms = (),
    **etas: float,
) -> Iterator["PreTrainedModel"]:
    """Steer a loaded transformers model for the length of a `with` block.

    `with prefreg.steer(model, helpful=1, harmless=0.5): model.generate(...)`. The weights get
    their pristine values back at the end, bit for bit, also after an exception. `base` names the
    base model where the loaded model does not know where it came from.

    Raises:
        UsageError: No axis is named, or an axis is malformed or named twice.
        BaseModelError: The model is not the base that its name says.
        RegistryError: An axis has no vector on this base.
    """
    from prefreg.flows.steering import steer_loaded

    opened = registry if isinstance(registry, Registry) else Registry(registry)
    wanted = (*as_terms(terms), *as_terms(etas))
    if not wanted:
        raise UsageError("steer() needs at least one axis, as in steer(model, helpful=1).")
    with steer_loaded(model, wanted, base, opened.access):
        yield model


@dataclass(frozen=True, slots=True)
class AxisReport:
    """An installed axis with the number of its stored versions."""

    installed: InstalledAxis
    versions: int


class Registry:
    """A registry of preference vectors.

    Nothing is held open between calls, so processes can share one registry.
    """

    def __init__(self, location: str | Path | None = None) -> None:
        """Name the registry; it is opened by each call."""
        self.access = Access(location)

    def axes(self) -> tuple[list[AxisReport], tuple[Plugin, ...]]:
        """Return the installed axes, ordered by name, and the plugins that bring none.

        Those are broken (`error`) or `disabled`.
        """
        catalog = load_axes()
        counts: dict[str, int] = {}
        if self.access.is_present():
            with self.access.reading() as store:
                counts = store.count()
        reports = [AxisReport(found, counts.get(found.axis.name, 0)) for found in catalog.axes]
        return reports, (*catalog.broken, *catalog.disabled)

    def add_axis(
        self,
        request: "AxisRequest | str",
        *,
        progress: "Progress | None" = None,
        note: Callable[[str], None] | None = None,
        **options: Any,
    ) -> VersionRecord:
        """Train the ± pair of an axis and store φ as a new version.

        `add_axis("verbosity", base="pocket", seed=1)` takes the fields of `AxisRequest`.

        Raises:
            AxisError: No such axis is installed.
            DataError: The rows cannot become preference pairs.
            UsageError: A setting is unknown or malformed.
            TrainingError: Memory or disk do not suffice.
            GateError: A pole collapsed or did not move.
        """
        from prefreg.flows.add_axis import add_axis
        from prefreg.flows.axis_request import AxisRequest

        wanted = AxisRequest(request, **options) if isinstance(request, str) else request
        return add_axis(self.access, wanted, progress, note)

    def preview_axis(
        self,
        request: "AxisRequest | str",
        *,
        note: Callable[[str], None] | None = None,
        **options: Any,
    ) -> "AxisPreview":
        """Do everything up to the training: the audit, the settings and a few tokens."""
        from prefreg.flows.add_axis import preview_axis
        from prefreg.flows.axis_request import AxisRequest

        wanted = AxisRequest(request, **options) if isinstance(request, str) else request
        return preview_axis(self.access, wanted, note)

    def sft(
        self,
        request: "SFTRequest",
        *,
        progress: "Progress | None" = None,
        note: Callable[[str], None] | None = None,
    ) -> "SFTResult":
        """Fine-tune a raw model on instructions, and make it the registry's last base.

        Raises:
            UsageError: A setting is unknown or malformed, or there is not one start.
            BaseModelError: The raw model is missing or damaged, or has no tokenizer.
            DataError: The rows have no answers to learn.
            TrainingError: Memory does not suffice, or training diverged.
            OutputError: The destination cannot be written.
        """
        from prefreg.flows.sft import fine_tune_base

        return fine_tune_base(self.access, request, progress, note)

    def import_vector(self, request: "ImportRequest | str", **options: Any) -> VersionRecord:
        """Store the difference of two models or adapters that were trained elsewhere.

        `import_vector("helpful", plus=..., minus=..., base=...)` takes the fields of
        `ImportRequest`; the folders may be paths or their text.

        Raises:
            UsageError: The name is malformed, or poles are missing or of two forms.
            BaseModelError: A checkpoint is missing, damaged or of another architecture.
            VectorError: An adapter does not fit or is more than two factors, or nothing differs.
            RegistryError: The name belongs to another axis.
        """
        from prefreg.flows.importing import ImportRequest, import_vector

        if isinstance(request, str):
            keys = ("plus", "minus", "task_vector")
            folders = {key: Path(options[key]) for key in keys if options.get(key)}
            request = ImportRequest(request, **(options | folders))
        return import_vector(self.access, request)

    def compress(self, axis: str, reference: str | int | None = None, **way: Any) -> VersionRecord:
        """Store a smaller form of a version as the next one, by exactly one way.

        `dtype="bf16"`, `int8=True`, `topk=0.1` or `rank=16`; `note` is free. What it cost stands
        in the record's metadata under `compression`.

        Raises:
            UsageError: Not exactly one way is given, or it makes this vector no smaller.
            RegistryError: There is no such version.
            VectorError: The vector is damaged.
        """
        from prefreg.flows.compress import CompressionRequest, compress_version

        number = None if reference is None else str(reference)
        return compress_version(self.access, CompressionRequest(axis, number, **way))

    def compose(
        self,
        terms: "Terms | CompositionRequest",
        output: str | Path = "composed",
        *,
        progress: Callable[[int, int, str], None] | None = None,
        **options: Any,
    ) -> "Composed":
        """Write θ_base + Σ ηᵢ·φᵢ as a Hugging Face checkpoint.

        Further options are the fields of `CompositionRequest`.

        Raises:
            UsageError: A term is malformed or an axis is named twice.
            RegistryError: A term has no version on the base.
            BaseModelError: The base is missing, damaged or another one.
            VectorError: A vector is damaged or does not fit, or the sum is not finite.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.flows.compose import CompositionRequest, compose

        if not isinstance(terms, CompositionRequest):
            terms = CompositionRequest(as_terms(terms), Path(output), **options)
        return compose(self.access, terms, progress)

    def compose_adapter(
        self, terms: "Terms | CompositionRequest", output: str | Path = "composed", **options: Any
    ) -> "AdapterResult":
        """Write Σ ηᵢ·φᵢ as one PEFT adapter, exactly unless `max_rank` is set; dense φ need it.

        Raises:
            UsageError: A term is malformed, an axis is named twice, or every η is 0.
            RegistryError: A term has no version on the base.
            VectorError: A vector is dense without `max_rank`, damaged, or does not fit the base.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.flows.compose import CompositionRequest
        from prefreg.flows.compose_adapter import compose_adapter

        if not isinstance(terms, CompositionRequest):
            terms = CompositionRequest(as_terms(terms), Path(output), form="adapter", **options)
        return compose_adapter(self.access, terms)

    def export(
        self,
        request: "ExportRequest",
        *,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> "Exported":
        """Write stored vectors in the form of another tool: adapter, checkpoint or mergekit.

        Raises:
            UsageError: What is named is malformed, or an option belongs to another form.
            RegistryError: There is no such version.
            VectorError: A vector is damaged, or dense for an adapter without a rank.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.flows.exporting import export

        return export(self.access, request, progress)

    def plan(self, request: "CompositionRequest") -> "CompositionPlan":
        """Say what a composition would read, sum and write, without writing."""
        from prefreg.flows.compose import plan

        return plan(self.access, request)

    def load(
        self, base: str | None = None, terms: Terms = (), *, at: Moment | None = None
    ) -> "SteeredModel":
        """Load a base model with dials, set to `terms`; with `at`, as versions were then.

        Without a base: the one base that the terms, or the whole registry, allow.
        """
        from prefreg.flows.steering import load_steered

        return load_steered(self.access, as_terms(terms), base, as_moment(at))

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
        from prefreg.registry import care
        from prefreg.registry.searching import Query, parse_metric

        query = Query(text, tuple(tags), note, base, tuple(map(parse_metric, metrics)))
        with self.access.reading() as store:
            return care.search(store, query)

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
        from prefreg.flows.resolve import weights_of

        with self.access.reading() as store:
            weights = weights_of(store, base)
            return store.resolve(axis, reference, base=weights, at=as_moment(at))

    def diff(self, first: str, second: str) -> "Comparison":
        """Compare two versions, each as in `helpful@1`: their records and their vectors."""
        from prefreg.flows.compare import compare_versions

        return compare_versions(self.access, parse_reference(first), parse_reference(second))

    def bases(self) -> list[BaseRecord]:
        """Return the base models that the registry knows."""
        with self.access.reading() as store:
            return store.bases()

    def alias(self, axis: str, number: int, alias: str) -> VersionRecord:
        """Point a version alias at a version; the alias's history is kept."""
        with self.access.changing() as store:
            store.set_alias(axis, number, alias)
            return store.resolve(axis, str(number))

    def unalias(self, axis: str, alias: str, *, base: str | None = None) -> None:
        """Delete a version alias; its history is kept."""
        from prefreg.flows.resolve import weights_of

        with self.access.changing() as store:
            store.delete_alias(axis, alias, weights_of(store, base))

    def alias_history(
        self, axis: str, alias: str | None = None, *, at: Moment | None = None
    ) -> list[AliasEvent]:
        """Return what happened to the version aliases of an axis, oldest first, until `at`."""
        with self.access.reading() as store:
            return store.alias_history(axis, alias, as_moment(at))

    def tag(
        self, axis: str, reference: str | int, *tags: str, remove: bool = False
    ) -> VersionRecord:
        """Give tags to a version, or take them away."""
        from prefreg.registry import care

        with self.access.changing() as store:
            record = store.resolve(axis, str(reference))
            return care.tag(store, record.axis, record.number, tags, remove=remove)

    def rename(self, old: str, new: str) -> str:
        """Rename an axis, whose old name goes on meaning it; return the name it had."""
        from prefreg.registry import care

        with self.access.changing() as store:
            return care.rename_axis(store, old, new)

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
        from prefreg.flows.copying import copy_version

        number = None if reference is None else str(reference)
        return copy_version(self.access, (axis, number), to, name=name, renumber=renumber)

    def backup(self, file: str | Path, *, overwrite: bool = False) -> "Backup":
        """Write a verified snapshot to an SQLite file, while others may write."""
        from prefreg.registry import care

        with self.access.reading() as store:
            return care.back_up(store, Path(file), overwrite=overwrite)

    def disk_use(self) -> DiskUse:
        """Say what the registry takes on the disk."""
        from prefreg.registry import care

        with self.access.reading() as store:
            return care.disk_use(store)

    def remove(self, axis: str, number: int, *, force: bool = False) -> VersionRecord:
        """Remove a version; one that an alias names only with `force`."""
        with self.access.changing() as store:
            record = store.resolve(axis, str(number))
            store.remove(axis, number, force=force)
            return record

    def verify(self) -> list[Problem]:
        """Check every byte against its hash and every row against its bytes."""
        with self.access.reading() as store:
            return store.verify()

    def gc(self) -> GcReport:
        """Remove the bytes that no version needs."""
        with self.access.changing() as store:
            return store.gc()
