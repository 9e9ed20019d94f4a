"""Add an axis: rows → pairs → tokens → two poles → φ → version."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefreg.axes.catalog import InstalledAxis
from prefreg.axes.find import FoundAxis, find_axis
from prefreg.checkpoints import BaseModel, on_disk_names, resolve_base
from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.composition.resolve import base_spec, identify
from prefreg.data.pairs import Audit, PairSet, build_pairs
from prefreg.data.tokens import PreviewToken, preview_tokens
from prefreg.data.wanted import Origin, open_rows
from prefreg.models.loading import load_limits, load_tokenizer
from prefreg.progress import Progress
from prefreg.registry import NewVersion, VersionRecord
from prefreg.registry.access import Access
from prefreg.registry.names import check_tags
from prefreg.training.axis_request import AxisRequest, LoraOptions
from prefreg.training.existing_pole import GivenPole, Pole, find_given
from prefreg.training.guards import Guards, Thresholds, read_thresholds
from prefreg.training.pair import PairResult, TrainedPole, train_pair
from prefreg.training.resources import check_disk
from prefreg.training.settings import Settings, resolve_settings
from prefreg.training.tokenising import TokenisedPairs, tokenise
from prefreg.vectors import Extraction, MemoryTensors, extract, extract_factors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def extract_pair(base: BaseModel, result: PairResult, blob: Path, dtype: str) -> Extraction:
    """Store φ of whole weights in `dtype`, or that of adapters by their factors."""
    if result.lora is not None:
        return extract_factors(
            positive=result.lora.factors(result.positive.weights),
            negative=result.lora.factors(result.negative.weights),
            destination=blob,
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in result.base.items()}
    names = on_disk_names(shapes, result.prefix, base.checkpoint)

    def named(weights: Mapping[str, torch.Tensor]) -> MemoryTensors:
        return MemoryTensors({names[name]: tensor for name, tensor in weights.items()})

    return extract(
        positive=named(result.positive.weights),
        negative=named(result.negative.weights),
        reference=named(result.base),
        destination=blob,
        dtype=dtype,
    )


def geometry(extraction: Extraction) -> dict[str, Any]:
    """Return what a version's record keeps of the measurements."""
    return {
        "norm": extraction.norm,
        "positive_norm": extraction.positive_norm,
        "negative_norm": extraction.negative_norm,
        "cosine_poles": extraction.cosine_poles,
        "zeros": extraction.zeros,
        "storage_error": extraction.storage_error,
        "norms": dict(extraction.norms),
    }


Note = Callable[[str], None]
_BENIGN = 8
_STORAGE = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run up to its training."""

    found: FoundAxis
    base: BaseModel
    origin: Origin
    pairs: PairSet
    length_balanced: bool
    settings: Settings
    lora: LoraOptions | None
    given: GivenPole | None
    guards: Guards
    seconds: float
    """What it took to come so far."""

    @property
    def installed(self) -> InstalledAxis:
        """Return the axis with its plugin."""
        return self.found.installed


@dataclass(frozen=True, slots=True)
class AxisPreview:
    """What a run would train on."""

    axis: str
    base: str
    source: str
    revision: str | None
    sources: list[dict[str, Any]]
    """What was read of each source."""
    audit: Audit
    max_length: int
    renderings: tuple[str, ...]
    settings: Mapping[str, Any]
    examples: tuple[list[PreviewToken], ...] = field(default=())
    notes: tuple[str, ...] = ()
    """What a run would say of its rows, a sentence each."""

    def to_json(self) -> dict[str, Any]:
        """Return the preview in a form that JSON can hold."""
        return {
            "axis": self.axis,
            "base": self.base,
            "source": self.source,
            "revision": self.revision,
            "sources": self.sources,
            "audit": self.audit.to_json(),
            "max_length": self.max_length,
            "renderings": list(self.renderings),
            "settings": dict(self.settings),
            "examples": [[token._asdict() for token in example] for example in self.examples],
            "notes": list(self.notes),
        }


def add_axis(
    access: Access,
    request: AxisRequest,
    progress: Progress | None = None,
    note: Note | None = None,
) -> VersionRecord:
    """Train the ± pair of an axis and store φ; nothing is stored when anything fails."""
    return add_prepared(access, prepare(access, request, note), request, progress, note)


def add_prepared(
    access: Access,
    run: Prepared,
    request: AxisRequest,
    progress: Progress | None = None,
    note: Note | None = None,
) -> VersionRecord:
    """Train and store a run whose pairs are there already, in the order in which they stand."""
    started = time.perf_counter() - run.seconds
    check_disk(Path(tempfile.gettempdir()), 4 * run.base.fingerprint.parameters)
    result = train_pair(
        base=run.base,
        axis=run.installed.axis,
        pairs=run.pairs,
        settings=run.settings,
        seed=request.seed,
        lora=run.lora,
        too_long=request.too_long,
        given=run.given,
        keep_anyway=request.keep_anyway,
        guards=run.guards,
        resumable=True,
        fresh=request.fresh,
        progress=progress,
        note=note,
    )
    with tempfile.TemporaryDirectory(prefix="prefreg-") as folder:
        blob = Path(folder) / "vector.safetensors"
        extraction = extract_pair(run.base, result, blob, _STORAGE[request.dtype])
        new = NewVersion(
            axis=run.installed.axis.name,
            axis_aliases=run.installed.axis.aliases,
            kind="low-rank" if result.lora else "dense",
            dtype="BF16" if request.dtype == "bfloat16" else "F32",
            base=identify(run.base),
            metadata=_metadata(run, request, result, extraction, time.perf_counter() - started),
            note=request.note,
            tags=tuple(request.tags),
        )
        with access.writing() as store:
            record = store.add(new, blob)
    if result.scratch is not None:
        result.scratch.remove()
    return record


def preview_axis(access: Access, request: AxisRequest, note: Note | None = None) -> AxisPreview:
    """Do everything up to the training, and show a few examples token by token."""
    run = prepare(access, request, note)
    tokenizer = load_tokenizer(run.base)
    tokens = tokens_of(run, request, tokenizer)
    return AxisPreview(
        axis=run.installed.axis.name,
        base=run.base.name,
        source=run.origin.origin,
        revision=run.origin.revision,
        sources=run.origin.describe_parts(),
        audit=tokens.audit,
        max_length=tokens.max_length,
        renderings=tokens.renderings,
        settings=run.settings.to_json(),
        examples=tuple(preview_tokens(tokens.positive[:3], tokenizer)),
        notes=tokens.notes,
    )


def tokens_of(
    run: Prepared, request: AxisRequest, tokenizer: "PreTrainedTokenizerBase"
) -> TokenisedPairs:
    """Write the pairs of a run as tokens, as its training does."""
    context, vocabulary = load_limits(run.base)
    return tokenise(
        run.installed.axis,
        run.pairs,
        tokenizer,
        settings=run.settings,
        context=context,
        vocabulary=vocabulary,
        policy=request.too_long,
    )


def prepare(access: Access, request: AxisRequest, note: Note | None) -> Prepared:
    """Find the axis and its base, resolve the settings and read the pairs."""
    started = time.perf_counter()
    check_tags(request.tags)
    thresholds = read_thresholds(request.guards)
    lora = request.lora_options()
    found = find_axis(request.name)
    installed = found.installed
    base = _choose_base(access, request.base, note)
    settings = resolve_settings(
        assignments=request.settings,
        config=request.config,
        preset=request.preset,
        default=base.world.training if base.world else None,
        max_length=request.max_length,
        lora=lora is not None,
    )
    poles: dict[Pole, str | None] = {"positive": request.plus, "negative": request.minus}
    given = find_given(base, poles, lora=lora is not None)
    if note is not None and given is not None:
        _note_given(given, base, note)
    if access.is_present():
        with access.reading() as store:
            store.check_names(installed.axis.name, installed.axis.aliases)
    origin = open_rows(
        installed.axis,
        data=request.data,
        base=base.name,
        limit=request.limit,
        revision=request.revision,
        seed=request.seed,
        accept_licence=request.accept_licence,
        note=note,
    )
    pairs = build_pairs(
        origin.pairs,
        axis_name=installed.axis.name,
        seed=request.seed,
        length_balanced=request.length_balanced,
    )
    if note is not None and (ended := origin.early_end()):
        note(ended)
    return Prepared(
        found=found,
        base=base,
        origin=origin,
        pairs=pairs,
        length_balanced=request.length_balanced,
        settings=settings,
        lora=lora,
        given=given,
        guards=_guards(request, thresholds, base),
        seconds=time.perf_counter() - started,
    )


def _guards(request: AxisRequest, thresholds: Thresholds, base: BaseModel) -> Guards:
    # Some axes of a closed world hold no benign prompt out.
    benign = base.world.safe_prompts(split="dev", limit=_BENIGN) if base.world else ()
    return Guards(thresholds, request.watch, request.answers, tuple(benign))


def _note_given(given: GivenPole, base: BaseModel, note: Note) -> None:
    found, of_base = given.model.fingerprint, base.fingerprint
    note(f"The {given.pole} pole is {given.model}; only the other one is trained.")
    if found.dtype != "F32" and found.dtype != of_base.dtype:
        note(f"It is stored in {found.dtype}, the base in {of_base.dtype}: φ has that rounding.")
    if (found.tokenizer, found.template) != (of_base.tokenizer, of_base.template):
        note("Its tokenizer or chat template is not the base's; the base's is used for both poles.")


def _choose_base(access: Access, spec: str | None, note: Note | None) -> BaseModel:
    if spec is None:
        last = None
        if access.is_present():
            with access.reading() as store:
                last = store.last_base()
        spec = base_spec(last) if last is not None else DEFAULT_BASE
        if note is not None:
            note(f"Base model: {spec} (choose another with --base).")
    return resolve_base(spec)


def _metadata(
    run: Prepared,
    request: AxisRequest,
    result: PairResult,
    extraction: Extraction,
    seconds: float,
) -> dict[str, Any]:
    return {
        "plugin": {
            "name": run.installed.plugin.name,
            "distribution": run.installed.plugin.distribution,
            "version": run.installed.plugin.version,
            "licence": run.installed.axis.licence,
        },
        **_declared(run.found),
        "data": {
            "source": run.origin.source,
            "origin": run.origin.origin,
            "revision": run.origin.revision,
            "sources": run.origin.describe_parts(),
            "length_balanced": run.length_balanced,
            "too_long": request.too_long,
            "fingerprint": run.pairs.fingerprint,
            "renderings": list(result.renderings),
            "audit": result.audit.to_json(),
        },
        "training": {
            "seed": result.seed,
            "settings": result.settings,
            "defaults": result.defaults,
            "guards": asdict(result.guards.thresholds),
            "shortcuts": result.shortcuts.to_json(),
        }
        | ({"lora": result.lora.to_json()} if result.lora else {}),
        "poles": {
            "positive": _pole(result.positive),
            "negative": _pole(result.negative),
        },
        "geometry": geometry(extraction),
        "environment": {
            "packages": result.packages,
            "hardware": result.hardware,
            "peak_memory": result.peak_memory,
            "reference": result.references,
        },
        "seconds": {**result.seconds, "total": seconds},
    }


def _declared(found: FoundAxis) -> dict[str, Any]:
    """Keep the YAML file of an axis that nothing else keeps."""
    if found.declaration is None:
        return {}
    kept = found.declaration
    return {"declaration": {"file": kept.file, "sha256": kept.sha256, "text": kept.text}}


def _pole(pole: TrainedPole) -> dict[str, Any]:
    kind = {"kind": "checkpoint", "checkpoint": pole.given.to_json()} if pole.given else {}
    stopped = {"stopped": asdict(pole.stop)} if pole.stop else {}
    warned = {"warnings": [asdict(each) for each in pole.warnings]} if pole.warnings else {}
    return (
        kind
        | stopped
        | warned
        | {
            "report": asdict(pole.report),
            "curve": [asdict(point) for point in pole.curve],
            "checks": [asdict(check) for check in pole.checks],
            "answers": [asdict(sample) for sample in pole.answers],
            "failures": [failure.to_json() for failure in pole.failures],
        }
    )
