"""The Python API: a registry with everything that the command line does.

In short:

    import prefreg

    registry = prefreg.open("registry.db")
    registry.compose({"helpful": 1, "harmless": 0.5}, "out")
    registry.load("pocket").set(helpful=1).generate("Which colour is Elsa's boat?")

What is asked of a run is a request, such as `AxisRequest`. A method takes one, or the main part of
one with its other fields as keywords; keywords win over a request that is given. Rooms are imported
by the methods that need them, as most of them load torch.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.axes.discovery import disable as disable_plugin
from prefreg.axes.discovery import enable as enable_plugin
from prefreg.axes.plugins import InstalledAxis, Plugin, load_axes
from prefreg.choosing.choosing_request import TuneRequest
from prefreg.config import blobs_setting
from prefreg.errors import PrefregError, UsageError
from prefreg.evaluation.evaluation_request import (
    Calibrating,
    Comparing,
    CompressionRequest,
    ConsistencyRequest,
    EvaluationRequest,
    InterferenceRequest,
    Reach,
    ScoreRequest,
    TransportRequest,
)
from prefreg.files import remove_abandoned
from prefreg.progress import Progress
from prefreg.registry import (
    Access,
    AliasEvent,
    BaseRecord,
    Copied,
    DiskUse,
    GcReport,
    Preset,
    Problem,
    VersionRecord,
    VersionSummary,
)
from prefreg.registry.records import GRACE, Moment, as_moment, parse_moment
from prefreg.requests import make_request, take_options
from prefreg.serving.serving_request import ServingRequest
from prefreg.terms import Term, as_terms, parse_dial, parse_reference
from prefreg.training.axis_request import AxisRequest, ImportRequest, SFTRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefreg.authoring.conformance import check_installed
    from prefreg.authoring.scaffold import NewPackage
    from prefreg.checkpoints.bundled import broken_bases, bundled_bases
    from prefreg.choosing.blame import Blame
    from prefreg.choosing.decouple import Decoupled
    from prefreg.choosing.front import draw_front
    from prefreg.choosing.tune import Tuned
    from prefreg.composition.adapter import ComposedAdapter
    from prefreg.composition.compose import CompositionPlan, read_recipe
    from prefreg.composition.composition_request import CompositionRequest, ExportRequest
    from prefreg.composition.export import Exported
    from prefreg.composition.in_memory import SteeredModel
    from prefreg.composition.methods import method_names
    from prefreg.composition.output import Composed
    from prefreg.evaluation.axis_scores import AxisScores
    from prefreg.evaluation.calibration import Calibration
    from prefreg.evaluation.checkpoint_audit import CheckpointAudit
    from prefreg.evaluation.compare import Comparison
    from prefreg.evaluation.consistency import Consistency, plot_consistency
    from prefreg.evaluation.demonstration import demonstrate
    from prefreg.evaluation.diagnosis import Diagnosis
    from prefreg.evaluation.dial_effects import DialEffects, Of
    from prefreg.evaluation.dial_range import DialRange
    from prefreg.evaluation.evaluate import Gate, Requirement
    from prefreg.evaluation.figures import Evaluation
    from prefreg.evaluation.interference import Interference, draw_interference
    from prefreg.evaluation.label_audit import LabelAudit
    from prefreg.evaluation.layer_profile import LayerProfile
    from prefreg.evaluation.paper.catalogue import EXPERIMENTS
    from prefreg.evaluation.paper.reproduce import Reproduced
    from prefreg.evaluation.paper.run_folder import ReproduceRequest
    from prefreg.evaluation.pole_curves import plot_version
    from prefreg.evaluation.sweep import Grid, Sweep
    from prefreg.models.sampling import Sampling
    from prefreg.registry.listing import Found
    from prefreg.registry.transfer import Backup
    from prefreg.serving.conversation import Conversation
    from prefreg.sharing.bundles import Bundled, Unbundled
    from prefreg.sharing.hub import Pulled, Pushed
    from prefreg.sharing.report import Report
    from prefreg.training.add_axis import AxisPreview
    from prefreg.training.doctor import Examination, empty_cache
    from prefreg.training.fine_tuning import SFTResult
    from prefreg.training.run_plan import AxisPlan

__all__ = [
    "EXPERIMENTS",
    "AxisReport",
    "Registry",
    "broken_bases",
    "bundled_bases",
    "check_installed",
    "demonstrate",
    "disable_plugin",
    "draw_front",
    "draw_interference",
    "empty_cache",
    "enable_plugin",
    "method_names",
    "new_axis",
    "open",
    "parse_moment",
    "plot_consistency",
    "plot_version",
    "read_recipe",
    "steer",
]

Note = Callable[[str], None]
Terms = Mapping[str, float] | Iterable[str | Term]


@dataclass(frozen=True, slots=True)
class AxisReport:
    """An installed axis with the number of its stored versions."""

    installed: InstalledAxis
    versions: int


class Registry:
    """A registry of preference vectors.

    Nothing is held open between calls, so processes can share one registry.
    """

    def __init__(
        self,
        location: str | Path | None = None,
        *,
        starter: bool = True,
        blobs: str | None = None,
    ) -> None:
        """Name the registry, and the store of a new one's vectors; it is opened by each call."""
        self.access = Access(location, starter, blobs or blobs_setting())

    def __repr__(self) -> str:
        try:
            with self.access.reading() as store:
                held = f"{sum(store.count().values())} versions"
        except PrefregError:  # missing or damaged, which whoever uses it is told
            held = "nothing to read yet" if not self.access.is_present() else "unreadable"
        return f"<Registry {self.access.place}: {held}>"

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
        request: AxisRequest | str,
        *,
        progress: Progress | None = None,
        tell: Note | None = None,
        **options: object,
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

        return add_axis(self.access, make_request(AxisRequest, request, **options), progress, tell)

    def preview_axis(
        self,
        request: AxisRequest | str,
        *,
        progress: Progress | None = None,
        tell: Note | None = None,
        **options: object,
    ) -> "AxisPreview":
        """Do everything up to the training: the audit, the settings and a few tokens.

        Of a source that asks the base, those rows are shown that are in the cache, and a few more.
        """
        from prefreg.training.add_axis import preview_axis

        made = make_request(AxisRequest, request, **options)
        return preview_axis(self.access, made, tell, progress)

    def plan_axis(
        self, request: AxisRequest | str, *, tell: Note | None = None, **options: object
    ) -> "AxisPlan":
        """Say what a run would take in memory, time and disk, from a few steps thrown away."""
        from prefreg.training.run_plan import plan_axis

        return plan_axis(self.access, make_request(AxisRequest, request, **options), tell)

    def audit_labels(
        self,
        request: AxisRequest | str,
        *,
        progress: Progress | None = None,
        tell: Note | None = None,
        **options: object,
    ) -> "LabelAudit":
        """Find rows of an axis whose answers may be exchanged; nothing is stored.

        Each half of the pairs is judged by a vector that was trained on the other, which takes as
        long as two vectors. `audit_labels("helpful", base="pocket")` takes the fields of
        `AxisRequest`.

        Raises:
            DataError: There are too few pairs, or the rows cannot become any.
            PrefregError: Whatever `add_axis` raises but for guards.
        """
        from prefreg.evaluation.label_audit import audit_labels

        wanted = make_request(AxisRequest, request, **options)
        return audit_labels(self.access, wanted, progress, tell)

    def consistency(
        self,
        request: ConsistencyRequest | str,
        seeds: Iterable[int] | None = None,
        *,
        progress: Progress | None = None,
        tell: Note | None = None,
        **options: object,
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

        own = take_options(ConsistencyRequest, options)
        if seeds is not None:
            own["seeds"] = tuple(seeds)
        given = request if isinstance(request, ConsistencyRequest) else None
        own["axis"] = make_request(AxisRequest, given.axis if given else request, **options)
        wanted = make_request(ConsistencyRequest, given, **own)
        return measure_consistency(self.access, wanted, progress, tell)

    def sft(
        self,
        request: SFTRequest | str | Path,
        *,
        progress: Progress | None = None,
        tell: Note | None = None,
        **options: object,
    ) -> "SFTResult":
        """Fine-tune a raw model on instructions, and make it the registry's last base.

        `sft("out", data="rows.jsonl", base="raw")` takes the fields of `SFTRequest`.

        Raises:
            UsageError: A setting is unknown or malformed, or there is not one start.
            BaseModelError: The raw model is missing or damaged, or has no tokenizer.
            DataError: The rows have no answers to learn.
            TrainingError: Memory does not suffice, or training diverged.
            OutputError: The destination cannot be written.
        """
        from prefreg.training.fine_tuning import fine_tune_base

        given = Path(request) if isinstance(request, str) else request
        wanted = make_request(SFTRequest, given, **options)
        return fine_tune_base(self.access, wanted, progress, tell)

    def import_vector(self, request: ImportRequest | str, **options: object) -> VersionRecord:
        """Store the difference of two models or adapters that were trained elsewhere.

        `import_vector("helpful", plus=..., minus=..., base=...)` takes the fields of
        `ImportRequest`; the folders may be paths or their text.

        Raises:
            UsageError: The name is malformed, or poles are missing or of two forms.
            BaseModelError: A checkpoint is missing, damaged or of another architecture.
            VectorError: An adapter does not fit or is more than two factors, or nothing differs.
            RegistryError: The name belongs to another axis.
        """
        from prefreg.training.import_vector import import_vector

        return import_vector(self.access, make_request(ImportRequest, request, **options))

    def compress(
        self,
        axis: CompressionRequest | str,
        reference: str | int | None = None,
        **options: object,
    ) -> VersionRecord:
        """Store a smaller form of a version under the next number, by exactly one way.

        `dtype="bf16"`, `int8=True`, `topk=0.1` or `rank=16`; `note` is free. The bare name of the
        axis goes on meaning what it did, unless `promote` is set. What the form cost stands in
        the record's metadata under `compression`.

        Raises:
            UsageError: Not exactly one way is given, or it makes this vector no smaller.
            RegistryError: There is no such version.
            VectorError: The vector is damaged.
        """
        from prefreg.evaluation.compress import compress_version

        if reference is not None:
            options["reference"] = str(reference)
        return compress_version(self.access, make_request(CompressionRequest, axis, **options))

    def transport(
        self,
        axis: TransportRequest | str,
        to: str | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> VersionRecord:
        """Store a version as one of another fine-tune of its base's architecture.

        `transport("harmless@1", "my-model")`; further options are the fields of
        `TransportRequest`. Where from, and how much of the held-out margin is kept, stands in the
        record's metadata under `transport`.

        Raises:
            RegistryError: There is no such version.
            VectorError: The new base is of another architecture.
            GateError: Too little is kept; nothing was stored.
            DataError: There are no held-out pairs to measure with.
        """
        from prefreg.evaluation.transport import transport

        if isinstance(axis, str):
            options["axis"], options["reference"] = parse_reference(axis)
        given = axis if isinstance(axis, TransportRequest) else None
        if to is not None:
            options["to"] = to
        return transport(self.access, make_request(TransportRequest, given, **options), progress)

    def compose(
        self,
        terms: "Terms | CompositionRequest",
        output: str | Path | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Composed":
        """Write θ_base + Σ ηᵢ·φᵢ as a Hugging Face checkpoint, into `composed` if not said where.

        Further options are the fields of `CompositionRequest`.

        Raises:
            UsageError: A term is malformed or an axis is named twice.
            RegistryError: A term has no version on the base.
            BaseModelError: The base is missing, damaged or another one.
            VectorError: A vector is damaged or does not fit, or the sum is not finite.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.composition.compose import compose

        return compose(self.access, _composition(terms, output, options), progress)

    def compose_adapter(
        self,
        terms: "Terms | CompositionRequest",
        output: str | Path | None = None,
        **options: object,
    ) -> "ComposedAdapter":
        """Write Σ ηᵢ·φᵢ as one PEFT adapter, exactly unless `max_rank` is set; dense φ need it.

        Raises:
            UsageError: A term is malformed, an axis is named twice, or every η is 0.
            RegistryError: A term has no version on the base.
            VectorError: A vector is dense without `max_rank`, damaged, or does not fit the base.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.composition.adapter import compose_adapter

        return compose_adapter(
            self.access, _composition(terms, output, {**options, "form": "adapter"})
        )

    def plan(
        self,
        terms: "Terms | CompositionRequest",
        output: str | Path | None = None,
        **options: object,
    ) -> "CompositionPlan":
        """Say what a composition would read, sum and write, without writing."""
        from prefreg.composition.compose import plan

        return plan(self.access, _composition(terms, output, options))

    def export(
        self,
        request: "ExportRequest | Sequence[str] | str",
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Exported":
        """Write stored vectors in the form of another tool: adapter, checkpoint or mergekit.

        `export("helpful@1", form="adapter", output="out")` takes the fields of `ExportRequest`.

        Raises:
            UsageError: What is named is malformed, or an option belongs to another form.
            RegistryError: There is no such version.
            VectorError: A vector is damaged, or dense for an adapter without a rank.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.composition.composition_request import ExportRequest
        from prefreg.composition.export import export

        if not isinstance(request, ExportRequest):
            options["what"] = (request,) if isinstance(request, str) else tuple(request)
            request = make_request(ExportRequest, **options)
        return export(self.access, make_request(ExportRequest, request, **options), progress)

    def load(
        self, base: str | None = None, terms: Terms = (), *, at: Moment | None = None
    ) -> "SteeredModel":
        """Load a base model with dials, set to `terms`; with `at`, as versions were then.

        Without a base: the one base that the terms, or the whole registry, allow.
        """
        from prefreg.composition.in_memory import load_steered

        return load_steered(self.access, as_terms(terms), base, as_moment(at))

    def serve(
        self,
        terms: "Terms | ServingRequest" = (),
        *,
        ready: Note | None = None,
        **options: object,
    ) -> None:
        """Serve a base with live dials to OpenAI's clients until Ctrl-C or SIGTERM.

        Requests that name no setting get `terms`. `ready` is told the address. Further options
        are the fields of `ServingRequest`.

        Raises:
            UsageError: A limit is out of measure, or other machines are let in without a key.
            OutputError: The address cannot be listened at.
            PrefregError: The base or a vector is missing or damaged, or the extra `serve` is.
        """
        made = terms if isinstance(terms, ServingRequest) else ServingRequest(as_terms(terms))
        made = make_request(ServingRequest, made, **options)
        try:
            from prefreg.serving.server import serve
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("prefreg"):
                raise
            raise UsageError(
                f"Serving needs {error.name}, which is not installed: pip install 'prefreg[serve]'."
            ) from error
        serve(self.access, made, ready)

    def raw_terms(
        self, terms: Terms, base: str | None = None, *, at: Moment | None = None
    ) -> tuple[Term, ...]:
        """Turn calibrated coefficients into the raw ones that compositions take.

        Raises:
            RegistryError: A version is not calibrated on the side that is asked for.
            UsageError: The versions are calibrated to different effects.
        """
        from prefreg.composition.resolve import translate

        return translate(self.access, as_terms(terms), base, as_moment(at))

    def evaluate(
        self,
        terms: Terms,
        request: EvaluationRequest | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Evaluation":
        """Measure a composition beside its base, in memory: figures with intervals.

        Further options are the fields of `EvaluationRequest`.

        Raises:
            UsageError: A term or an option is malformed.
            AxisError: An axis that shall be scored is not installed.
            RegistryError: A term has no version on the base.
            DataError: A metric failed on an answer, or a file cannot be read.
        """
        from prefreg.evaluation.evaluate import evaluate

        wanted = make_request(EvaluationRequest, request, **options)
        return evaluate(self.access, as_terms(terms), wanted, progress)

    def score(
        self,
        axis: ScoreRequest | str,
        file: str | Path | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "AxisScores":
        """Rank the answers of a file by an axis, `score("harmless@1", "answers.jsonl")`.

        An axis is a reward model: β·[log π₊(y|x) − log π₋(y|x)], from its φ alone. Further options
        are the fields of `ScoreRequest`.

        Raises:
            RegistryError: The axis has no version on the base.
            DataError: A row has no prompt or no answer.
            BaseModelError: An answer does not fit the base's context.
        """
        from prefreg.evaluation.axis_scores import score_file

        if isinstance(axis, str):
            options["axis"], options["reference"] = parse_reference(axis)
            options["file"] = file
        given = axis if isinstance(axis, ScoreRequest) else None
        return score_file(self.access, make_request(ScoreRequest, given, **options), progress)

    def store_evaluation(self, evaluation: "Evaluation") -> VersionRecord:
        """Keep the figures of one vector among the measurements of its version.

        Raises:
            UsageError: The composition was not of one version.
            RegistryError: The registry cannot be written.
        """
        from prefreg.evaluation.evaluate import store_evaluation

        return store_evaluation(self.access, evaluation)

    def gate(
        self,
        terms: Terms,
        require: "str | Sequence[Requirement]",
        request: EvaluationRequest | None = None,
        *,
        strict: bool = False,
        progress: Progress | None = None,
        **options: object,
    ) -> "Gate":
        """Measure a composition and decide on bounds such as `"harmless>=0.7,kl<=2"`.

        Raises:
            UsageError: A requirement is malformed or names no figure.
            DataError: A figure was not measured.
        """
        from prefreg.evaluation.evaluate import gate, parse_requirements

        bounds = parse_requirements(require) if isinstance(require, str) else require
        wanted = make_request(EvaluationRequest, request, **options)
        return gate(self.access, as_terms(terms), bounds, wanted, strict=strict, progress=progress)

    def sweep(
        self,
        grid: "str | Sequence[str] | Grid",
        output: str | Path = "sweep",
        request: EvaluationRequest | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: object,
    ) -> "Sweep":
        """Measure every setting of a grid, `["helpful=-1:1:0.5", "harmless=-1,0,1"]`.

        Writes a table, pictures and a report into a folder. Further options are the fields of
        `EvaluationRequest`. What was measured before an interruption is not repeated.

        Raises:
            UsageError: The grid is malformed.
            OutputError: The folder holds something else, or a sweep that may not be replaced.
        """
        from prefreg.evaluation.sweep import Grid, parse_grid, sweep

        if not isinstance(grid, Grid):
            grid = parse_grid([grid] if isinstance(grid, str) else grid)
        wanted = make_request(EvaluationRequest, request, **options)
        return sweep(
            self.access, grid, wanted, Path(output), overwrite=overwrite, progress=progress
        )

    def reproduce(
        self,
        request: "ReproduceRequest | str",
        output: str | Path | None = None,
        *,
        progress: Progress | None = None,
        tell: Note | None = None,
        **options: object,
    ) -> "Reproduced":
        """Repeat an experiment of the paper, into a folder; `reproduce("grid", "out", seeds=(0,))`.

        Vectors are taken from this registry where it has them, and trained into the folder where
        it has not. Further options are the fields of `ReproduceRequest`. The same call goes on
        after an interruption.

        Raises:
            UsageError: There is no such experiment, or it takes other axes.
            OutputError: The folder holds something else.
            PrefregError: Whatever adding an axis or evaluating raises.
        """
        from prefreg.evaluation.paper.reproduce import reproduce
        from prefreg.evaluation.paper.run_folder import ReproduceRequest

        if output is not None:
            options["output"] = Path(output)
        if isinstance(request, str):
            options = {"output": Path("reproduced", request), **options}
        wanted = make_request(ReproduceRequest, request, **options)
        return reproduce(self.access, wanted, progress=progress, tell=tell)

    def interference(
        self,
        terms: Terms | InterferenceRequest = (),
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Interference":
        """Compare vectors in the weights; without terms, all newest ones of the one base.

        Further options are the fields of `InterferenceRequest` and of `Comparing`.

        Raises:
            UsageError: A term is malformed or at 0, or there is only one vector.
            RegistryError: A term has no version on the base, or several bases fit.
            VectorError: A vector is damaged.
        """
        from prefreg.evaluation.interference import measure_interference

        if not isinstance(terms, InterferenceRequest):
            terms = InterferenceRequest(as_terms(terms))
        comparing = take_options(Comparing, options)
        options.setdefault("comparing", make_request(Comparing, terms.comparing, **comparing))
        wanted = make_request(InterferenceRequest, terms, **options)
        return measure_interference(self.access, wanted, progress)

    def behaviour(
        self,
        terms: Terms = (),
        request: EvaluationRequest | None = None,
        *,
        functional: bool = True,
        leakage: "Of | None" = "margin",
        progress: Progress | None = None,
        **options: object,
    ) -> "DialEffects":
        """Measure what vectors do to predictions, and which dial moves which axis.

        Raises:
            UsageError: A term is malformed or at 0.
            RegistryError: A term has no version on the base, or several bases fit.
            DataError: Nothing can be measured, or there are too few prompts.
        """
        from prefreg.evaluation.dial_effects import measure_effects

        return measure_effects(
            self.access,
            as_terms(terms),
            make_request(EvaluationRequest, request, **options),
            functional=functional,
            leakage=leakage,
            progress=progress,
        )

    def audit(
        self,
        checkpoint: str | Path,
        terms: Terms = (),
        request: EvaluationRequest | None = None,
        *,
        functional: bool = True,
        progress: Progress | None = None,
        **options: object,
    ) -> "CheckpointAudit":
        """Read how far a fine-tuned checkpoint, or a PEFT adapter's folder, went along each axis.

        Without terms, by the newest version of every axis on the base. Without `functional` no
        model is loaded. Further options are the fields of `EvaluationRequest`.

        Raises:
            RegistryError: A term has no version on the base, or several bases fit.
            BaseModelError: The checkpoint is damaged, unchanged, or of another architecture.
            VectorError: The adapter does not fit the base.
        """
        from prefreg.evaluation.checkpoint_audit import audit_checkpoint

        return audit_checkpoint(
            self.access,
            checkpoint,
            as_terms(terms),
            make_request(EvaluationRequest, request, **options),
            functional=functional,
            progress=progress,
        )

    def find_range(
        self,
        dial: str | Term,
        reach: Reach | None = None,
        request: EvaluationRequest | None = None,
        *,
        store: bool = True,
        progress: Progress | None = None,
        **options: object,
    ) -> "DialRange":
        """Find how far a dial, such as `"helpful@1"`, may be turned, and keep that with it.

        Further options are the fields of `Reach` and of `EvaluationRequest`.

        Raises:
            RegistryError: There is no such version, or the registry cannot be written.
            DataError: Nothing measures the axis, or there are too few prompts.
        """
        from prefreg.evaluation.dial_range import find_range

        return find_range(
            self.access,
            _dial(dial),
            make_request(Reach, reach, **take_options(Reach, options)),
            make_request(EvaluationRequest, request, **options),
            store=store,
            progress=progress,
        )

    def calibrate(
        self,
        dials: Iterable[str | Term] = (),
        calibrating: Calibrating | None = None,
        request: EvaluationRequest | None = None,
        *,
        store: bool = True,
        progress: Progress | None = None,
        **options: object,
    ) -> "list[Calibration]":
        """Find the scale of every dial at which η = 1 means the same effect, and keep it.

        Further options are the fields of `Calibrating` and of `EvaluationRequest`.

        Raises:
            RegistryError: There is no such version, or the registry cannot be written.
            DataError: An axis has no metric, or it applies to too few answers.
        """
        from prefreg.evaluation.calibration import calibrate

        return calibrate(
            self.access,
            [_dial(dial) for dial in dials],
            make_request(Calibrating, calibrating, **take_options(Calibrating, options)),
            make_request(EvaluationRequest, request, **options),
            store=store,
            progress=progress,
        )

    def profile(
        self,
        dial: str | Term,
        request: EvaluationRequest | None = None,
        *,
        blocks: int = 8,
        progress: Progress | None = None,
        **options: object,
    ) -> "LayerProfile":
        """Measure which layers of a vector do its work, and whether a subset does it for less KL.

        Raises:
            RegistryError: There is no such version.
            DataError: The axis has no held-out pairs here.
        """
        from prefreg.evaluation.layer_profile import profile_dial

        wanted = make_request(EvaluationRequest, request, **options)
        return profile_dial(self.access, _dial(dial), wanted, blocks=blocks, progress=progress)

    def diagnose(
        self,
        terms: Terms,
        request: EvaluationRequest | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Diagnosis":
        """Name what is wrong with a composition: weak, over-refusing or incoherent, and why.

        Raises:
            UsageError: A term is malformed or at 0.
            RegistryError: A term has no version on the base.
            DataError: There is nothing to ask.
        """
        from prefreg.evaluation.diagnosis import diagnose

        wanted = make_request(EvaluationRequest, request, **options)
        return diagnose(self.access, as_terms(terms), wanted, progress)

    def blame(
        self,
        terms: Terms,
        request: EvaluationRequest | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Blame":
        """Leave each term of a composition out in turn, and say which one costs what.

        Raises:
            UsageError: There are fewer than two terms, or one is malformed.
            RegistryError: A term has no version on the base.
        """
        from prefreg.choosing.blame import find_blame

        wanted = make_request(EvaluationRequest, request, **options)
        return find_blame(self.access, as_terms(terms), wanted, progress)

    def decouple(
        self,
        effects: Terms,
        request: EvaluationRequest | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Decoupled":
        """Find the η that have these effects, `{"harmless": 1, "helpful": 0}`; 0 is to stay.

        An effect is a change of log-odds of a rate, of the logarithm of a count, else of the metric
        in standard deviations of the base. Of what is returned, `terms` can be composed.

        Raises:
            UsageError: Nothing shall move, or a term is malformed.
            DataError: A dial has no range, the dials cannot be told apart, or the effects are not
                reached; the message has the nearest point that is.
        """
        from prefreg.choosing.decouple import decouple

        wanted = make_request(EvaluationRequest, request, **options)
        return decouple(self.access, as_terms(effects), wanted, progress)

    def tune(
        self,
        tuning: TuneRequest | str,
        request: EvaluationRequest | None = None,
        *,
        progress: Progress | None = None,
        **options: object,
    ) -> "Tuned":
        """Find the setting that serves a target best under constraints.

        `tune("helpful=max", subject_to="harmless>=0.7,kl<=0.5")` takes the fields of `TuneRequest`
        and of `EvaluationRequest`; `axes` are the dials.

        Raises:
            UsageError: The target or a constraint is malformed, they contradict each other, or the
                budget is too small.
            DataError: A figure cannot be measured or does not move, a dial has no range, or no
                setting is likely to meet the constraints; the message has the nearest.
        """
        from prefreg.choosing.tune import tune

        own = make_request(TuneRequest, tuning, **take_options(TuneRequest, options))
        wanted = make_request(EvaluationRequest, request, **options)
        return tune(self.access, own, wanted, progress)

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

    def chat(
        self,
        terms: Terms = (),
        *,
        base: str | None = None,
        sampling: "Sampling | None" = None,
        **options: object,
    ) -> "Conversation":
        """Load a base for a dialogue whose dials are turned between messages; close it with `with`.

        Further options are the fields of `Sampling`.

        Raises:
            UsageError: A term or an option is malformed, or an axis is named twice.
            PrefregError: The base or a vector is missing or damaged.
        """
        from prefreg.models.sampling import Sampling
        from prefreg.serving.conversation import Conversation
        from prefreg.serving.live_model import LiveModel

        wanted, drawn = as_terms(terms), make_request(Sampling, sampling, **options)
        live = LiveModel.load(self.access, base, wanted)
        try:
            return Conversation(live, self.access, wanted, drawn)
        except BaseException:
            live.close(finish_running=False)
            raise

    def save_preset(self, name: str, terms: Terms, *, note: str | None = None) -> Preset:
        """Save a setting under a name, as a new version if it is another one than stands there.

        Raises:
            UsageError: The name or a term is malformed, or an axis is named twice.
            RegistryError: The name is an axis, or there is no vector of a term.
        """
        wanted = as_terms(terms)
        with self.access.reading() as store:
            store.check_preset(name, wanted)  # before a registry is created
        with self.access.writing() as store:
            return store.save_preset(name, wanted, note)

    def remove_preset(self, name: str) -> Preset:
        """Remove a preset with all its versions; return the newest."""
        with self.access.changing() as store:
            return store.remove_preset(name)

    def presets(self, name: str | None = None) -> list[Preset]:
        """Return the newest version of every preset by name, or every version of one."""
        if not self.access.is_present():
            return []
        with self.access.reading() as store:
            return store.presets(name)

    def preset(self, name: str, number: int | None = None) -> Preset:
        """Return a version of a preset, the newest without a number."""
        with self.access.reading() as store:
            return store.preset(name, number)

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

    def doctor(self) -> "Examination":
        """Look at the environment, the disk, the plugins and this registry."""
        from prefreg.training.doctor import examine

        return examine(self.access)

    def alias(self, axis: str, number: int, alias: str) -> VersionRecord:
        """Point a version alias at a version; the alias's history is kept."""
        self.show(axis, str(number))  # known before a registry is created
        with self.access.writing() as store:
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
        record = self.show(axis, str(reference))
        with self.access.writing() as store:
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
    ) -> Copied:
        """Copy a version with its record to another registry, which is created if need be."""
        from prefreg.registry.transfer import copy_version

        number = None if reference is None else str(reference)
        return copy_version(self.access, (axis, number), to, name=name, renumber=renumber)

    def push(
        self,
        what: str | Path,
        repository: str,
        *,
        private: bool = False,
        licence: str | None = None,
    ) -> "Pushed":
        """Push a version, as in `"helpful@1"`, or the `Path` of a composition, to the Hub.

        `repository` is ORG/NAME, and made if it is not there. `licence` is that of the vector
        itself. Everything is one commit, made only if nobody else has pushed meanwhile.

        Raises:
            UsageError: What is named is malformed.
            RegistryError: There is no such version.
            HubError: The Hub refuses or cannot be reached, or somebody else has pushed meanwhile.
            OutputError: The folder is none of prefreg, or the repository holds something else.
        """
        from prefreg.sharing.hub import push_composition, push_vector

        if isinstance(what, Path):
            return push_composition(what, repository, private=private)
        return push_vector(
            self.access, parse_reference(what), repository, private=private, licence=licence
        )

    def pull(
        self, repository: str, *, base: str | None = None, name: str | None = None
    ) -> "Pulled":
        """Take the vector of a repository of the Hub, ORG/NAME[@REVISION], as the next version.

        `base` is where its base lies, if the registry knows none; `name` an axis to store it
        under. A vector that is here already is found, not added again.

        Raises:
            HubError: The Hub refuses or cannot be reached, or the repository holds no vector.
            VectorError: Record or bytes are damaged, newer, or do not fit the base.
            BaseModelError: The base is not here, or is another one.
            RegistryError: The name belongs to another axis, or the registry cannot be written.
        """
        from prefreg.sharing.hub import pull

        return pull(self.access, repository, base=base, name=name)

    def backup(self, file: str | Path, *, overwrite: bool = False) -> "Backup":
        """Write a verified snapshot to an SQLite file, while others may write."""
        from prefreg.registry import transfer

        with self.access.reading() as store:
            return transfer.back_up(store, Path(file), overwrite=overwrite)

    def bundle(
        self,
        versions: str | Sequence[str],
        output: str | Path,
        *,
        presets: Sequence[str] = (),
        key: str | Path | None = None,
        with_base: bool = False,
        overwrite: bool = False,
    ) -> "Bundled":
        """Write versions, each as in `"helpful@1"`, and what belongs to them to one file.

        `presets` are taken with the versions that they name; without any, those are that name
        nothing but these versions. `key` is a file with a private key, to sign with.

        Raises:
            UsageError: What is named is malformed, or the key is none.
            RegistryError: There is no such version or preset.
            BaseModelError: The base is missing or another one.
            OutputError: The file is there already or cannot be written.
        """
        from prefreg.sharing.bundles import write_bundle

        named = [versions] if isinstance(versions, str) else versions
        return write_bundle(
            self.access,
            [parse_reference(each) for each in named],
            Path(output),
            presets=presets,
            key=None if key is None else Path(key),
            with_base=with_base,
            overwrite=overwrite,
        )

    def unbundle(
        self,
        file: str | Path,
        *,
        public_key: str | Path | None = None,
        base_to: str | Path | None = None,
        renumber: bool = False,
        progress: Progress | None = None,
    ) -> "Unbundled":
        """Take what a bundle holds into the registry; what stands here stays as it is.

        `public_key` is a file with the key of whom it must be from, `base_to` a folder for the
        base that is in it.

        Raises:
            BundleError: It is no bundle, newer, damaged, or not signed with the key.
            RegistryError: A number or name means something else here; nothing was stored.
            OutputError: The folder for the base cannot be written.
        """
        from prefreg.sharing.bundles import unbundle

        return unbundle(
            self.access,
            Path(file),
            public_key=None if public_key is None else Path(public_key),
            base_to=None if base_to is None else Path(base_to),
            renumber=renumber,
            progress=progress,
        )

    def report(
        self,
        output: str | Path,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> "Report":
        """Write a site of the registry into a folder, whole or not at all; it needs no network.

        Raises:
            RegistryError: The registry is missing or damaged.
            OutputError: The folder cannot be written, or holds what prefreg did not write.
        """
        from prefreg.sharing.report import write_report

        return write_report(self.access, Path(output), overwrite=overwrite, progress=progress)

    def remove(self, axis: str, number: int, *, force: bool = False) -> VersionRecord:
        """Remove a version; one that an alias names only with `force`."""
        with self.access.changing() as store:
            record = store.resolve(axis, str(number))
            store.remove(axis, number, force=force)
            return record

    def gc(self, *, grace: float = GRACE) -> GcReport:
        """Remove the bytes that no version needs, and what killed processes left.

        That is in the folder of the registry and in that of temporary files. Bytes in a store are
        left until they are `grace` seconds old, for those who have not written their version yet.
        """
        with self.access.changing() as store:
            report, path = store.gc(grace), store.database.path
        places = [Path(tempfile.gettempdir()), *([] if path is None else [path.parent])]
        left = [remove_abandoned(place) for place in places]
        return GcReport(
            report.files + sum(each.files for each in left),
            report.bytes + sum(each.bytes for each in left),
        )


def open(
    location: str | Path | None = None, *, starter: bool = True, blobs: str | None = None
) -> Registry:
    """Open a registry by its path or SQLAlchemy URL.

    Without a location: `PREFREG_REGISTRY`, else `./registry.db`; the first write creates what is
    missing. The vectors that ship with prefreg lie beneath it, unless `starter` is false: to be
    read, and taken over when something is kept with one of them. A new registry keeps its vectors
    in the store `blobs`, else that of `PREFREG_BLOBS`, as `s3://BUCKET/PREFIX` or
    `file:///FOLDER`, and remembers it.
    """
    return Registry(location, starter=starter, blobs=blobs)


@contextmanager
def steer(
    model: "PreTrainedModel",
    *,
    registry: str | Path | Registry | None = None,
    base: str | None = None,
    terms: Terms = (),
    **etas: float,
) -> "Iterator[PreTrainedModel]":
    """Steer a loaded transformers model for the length of a `with` block.

    `with prefreg.steer(model, helpful=1, harmless=0.5): model.generate(...)`. The weights get
    their pristine values back at the end, bit for bit, also after an exception. `base` names the
    base model where the loaded model does not know where it came from.

    Raises:
        UsageError: No axis is named, or an axis is malformed or named twice.
        BaseModelError: The model is not the base that its name says.
        RegistryError: An axis has no vector on this base.
    """
    from prefreg.composition.in_memory import steer_loaded

    opened = registry if isinstance(registry, Registry) else Registry(registry)
    wanted = (*as_terms(terms), *as_terms(etas))
    if not wanted:
        raise UsageError("steer() needs at least one axis, as in steer(model, helpful=1).")
    with steer_loaded(model, wanted, base, opened.access):
        yield model


def new_axis(name: str, folder: str | Path | None = None) -> "NewPackage":
    """Write a complete package for a new axis, by default into `./prefreg-axis-NAME`.

    Raises:
        UsageError: The name cannot be that of an axis.
        AxisError: The name is taken.
        OutputError: The folder cannot be written, or is not empty.
    """
    from prefreg.authoring.scaffold import write_package

    return write_package(name, None if folder is None else Path(folder), load_axes())


_ROOMS = {
    "EXPERIMENTS": "evaluation.paper.catalogue",
    "broken_bases": "checkpoints.bundled",
    "bundled_bases": "checkpoints.bundled",
    "check_installed": "authoring.conformance",
    "demonstrate": "evaluation.demonstration",
    "draw_front": "choosing.front",
    "draw_interference": "evaluation.interference",
    "empty_cache": "training.doctor",
    "method_names": "composition.methods",
    "plot_consistency": "evaluation.consistency",
    "plot_version": "evaluation.pole_curves",
    "read_recipe": "composition.compose",
}
"""What needs no registry, by the room that it comes from when it is first used."""


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"prefreg.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'prefreg.api' has no attribute {name!r}")


def _composition(
    terms: "Terms | CompositionRequest",
    output: str | Path | None,
    options: Mapping[str, object],
) -> "CompositionRequest":
    from prefreg.composition.composition_request import CompositionRequest

    if not isinstance(terms, CompositionRequest):
        terms = CompositionRequest(as_terms(terms))
    own = {} if output is None else {"output": output}
    return make_request(CompositionRequest, terms, **own, **options)


def _dial(dial: str | Term) -> Term:
    return dial if isinstance(dial, Term) else parse_dial(dial)
