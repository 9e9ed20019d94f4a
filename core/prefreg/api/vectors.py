"""Where vectors come from: axes that are trained, models that others trained, smaller forms."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.api.opened import Opened
from prefreg.axes.catalog import InstalledAxis, Plugin
from prefreg.axes.plugins import load_axes
from prefreg.registry import VersionRecord

if TYPE_CHECKING:
    from prefreg.evaluation.consistency import Consistency
    from prefreg.evaluation.evaluation_request import ConsistencyRequest
    from prefreg.progress import Progress
    from prefreg.training.add_axis import AxisPreview
    from prefreg.training.axis_request import AxisRequest, ImportRequest, SFTRequest
    from prefreg.training.run_plan import AxisPlan
    from prefreg.training.sft.fine_tuning import SFTResult


@dataclass(frozen=True, slots=True)
class AxisReport:
    """An installed axis with the number of its stored versions."""

    installed: InstalledAxis
    versions: int


class Making(Opened):
    """Make vectors and store them."""

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
        from prefreg.training.add_axis import add_axis
        from prefreg.training.axis_request import AxisRequest

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
        from prefreg.training.add_axis import preview_axis
        from prefreg.training.axis_request import AxisRequest

        wanted = AxisRequest(request, **options) if isinstance(request, str) else request
        return preview_axis(self.access, wanted, note)

    def plan_axis(
        self,
        request: "AxisRequest | str",
        *,
        note: Callable[[str], None] | None = None,
        **options: Any,
    ) -> "AxisPlan":
        """Say what a run would take in memory, time and disk, from a few steps thrown away."""
        from prefreg.training.axis_request import AxisRequest
        from prefreg.training.run_plan import plan_axis

        wanted = AxisRequest(request, **options) if isinstance(request, str) else request
        return plan_axis(self.access, wanted, note)

    def consistency(
        self,
        request: "ConsistencyRequest | str",
        seeds: Iterable[int] = (),
        *,
        progress: "Progress | None" = None,
        note: Callable[[str], None] | None = None,
        **options: Any,
    ) -> "Consistency":
        """Compare the vectors of several seeds; what is missing is trained into a scratch registry.

        `consistency("helpful", range(8), halves=2, base="pocket")` takes the fields of
        `ConsistencyRequest`, and those of `AxisRequest` for the training.

        Raises:
            UsageError: There are fewer than two seeds, or the scratch registry is this one.
            VectorError: The vectors are not of one base, or one of them is zero.
            PrefregError: Whatever `add_axis` raises.
        """
        from prefreg.evaluation.consistency import measure_consistency
        from prefreg.evaluation.evaluation_request import ConsistencyRequest
        from prefreg.training.axis_request import AxisRequest

        if isinstance(request, str):
            names = ("same_pairs", "halves", "null", "scratch", "store")
            own = {name: options.pop(name) for name in names if name in options}
            own |= {"scratch": Path(own["scratch"])} if "scratch" in own else {}
            request = ConsistencyRequest(AxisRequest(request, **options), tuple(seeds), **own)
        return measure_consistency(self.access, request, progress, note)

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
        from prefreg.training.sft.fine_tuning import fine_tune_base

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
        from prefreg.training.axis_request import ImportRequest
        from prefreg.training.import_vector import import_vector

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
        from prefreg.evaluation.compress import compress_version
        from prefreg.evaluation.evaluation_request import CompressionRequest

        number = None if reference is None else str(reference)
        return compress_version(self.access, CompressionRequest(axis, number, **way))
