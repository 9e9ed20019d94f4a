"""Add an axis: axis → rows → pairs → tokens → reference → θ₊ → θ₋ → guards → φ → version."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefreg import launch
from prefreg.axes.axis import Axis
from prefreg.axes.plugins import FoundAxis, declare_axis, find_axis, load_axes
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.composition.resolve import base_spec, identify
from prefreg.data.mixture import Mixture, open_rows, read_wanted
from prefreg.data.pairs import Audit, build_pairs
from prefreg.data.tokens import PreviewToken, preview_tokens
from prefreg.errors import AxisError, DataError, UsageError, did_you_mean
from prefreg.files import work_folder
from prefreg.json_values import JsonFields, fields_to_json
from prefreg.models.answering_base import AnsweringBase
from prefreg.models.conversion import find_conversion
from prefreg.models.loading import empty_model, quiet
from prefreg.models.ranks import Ranks, current, several
from prefreg.plain_yaml import read_assignments
from prefreg.progress import Progress, steps_of
from prefreg.registry import Access, NewVersion, VersionRecord
from prefreg.registry.licences import recorded_licence
from prefreg.registry.names import check_tags
from prefreg.terms import AXIS_NAME
from prefreg.training.axis_request import AxisRequest, Poles
from prefreg.training.axis_run import (
    AxisRun,
    ExistingPole,
    Pole,
    find_existing_pole,
    find_same,
)
from prefreg.training.behaviour import Behaviour, observe
from prefreg.training.guards import Guards, enforce, read_thresholds
from prefreg.training.pair import TrainedPair, train_pair
from prefreg.training.precision import choose_precision
from prefreg.training.resources import check_disk, package_versions
from prefreg.training.run_state import as_source
from prefreg.training.settings import POLES, resolve_settings
from prefreg.vectors.extraction import Extraction, extract, extract_factors

Note = Callable[[str], None]
_BENIGN = 8
_STORAGE = {"float32": "F32", "bfloat16": "BF16"}


def add_axis(
    access: Access,
    request: AxisRequest,
    progress: Progress | None = None,
    note: Note | None = None,
) -> VersionRecord:
    """Train the ± pair of an axis and store φ; nothing is stored when anything fails.

    What the registry has already, made of the same pairs, settings and seed, is returned as it
    is, unless the request says `again` or `fresh`.
    """
    started = launch.current()
    if request.shard and started.world == 1:
        raise UsageError(
            "--shard deals weights out to several processes, and this is one: start several by "
            "torchrun (docs/scale.md)."
        )
    with several(started, shard=request.shard or started.shard) as ranks:
        return _add(access, request, ranks, progress, note)


def _add(
    access: Access,
    request: AxisRequest,
    ranks: Ranks,
    progress: Progress | None,
    note: Note | None,
) -> VersionRecord:
    run = ranks.first_then_all(lambda: prepare(access, request, note, progress=progress))
    made = not (request.again or request.fresh)
    if made and (same := ranks.once(lambda: find_same(access, run))) is not None:
        if note is not None:
            note(
                f"{same} is there already, of the same base, pairs, settings and seed: nothing "
                "was trained. --again trains it once more."
            )
        return same
    return add_prepared(access, run, progress, note)


def add_prepared(
    access: Access, run: AxisRun, progress: Progress | None = None, note: Note | None = None
) -> VersionRecord:
    """Train and store a run whose pairs are there already, in the order in which they stand."""
    started = time.perf_counter() - run.seconds
    ranks = current()
    check_disk(Path(tempfile.gettempdir()), 4 * run.base.fingerprint.parameters)
    ranks.once(access.check)  # known before hours of training
    pair = train_pair(run, progress=progress, note=note, resumable=True)
    with work_folder() as folder:
        # Where several processes take part in an answer, all of them read it.
        place = Path(folder) if ranks.world == 1 or pair.folder is None else pair.folder.folder
        blob = place / "vector.safetensors"
        extraction = ranks.once(lambda: extract_pair(pair, blob))
        behaviour = _observe(pair, blob, progress, note)
        new = NewVersion(
            axis=run.axis.name,
            axis_aliases=run.axis.aliases,
            kind="low-rank" if run.lora else "dense",
            dtype="BF16" if run.request.dtype == "bfloat16" else "F32",
            base=identify(run.base),
            metadata=_metadata(pair, extraction, behaviour, time.perf_counter() - started),
            note=run.request.note,
            tags=tuple(run.request.tags),
        )
        record = ranks.once(lambda: _store(access, new, blob))
    if pair.folder is not None and ranks.first:
        pair.folder.remove()
    return record


def _store(access: Access, new: NewVersion, blob: Path) -> VersionRecord:
    with access.writing() as store:
        return store.add(new, blob)


def prepare(
    access: Access,
    request: AxisRequest,
    note: Note | None = None,
    given_pairs: Mixture | None = None,
    *,
    progress: Progress | None = None,
    few: bool = False,
) -> AxisRun:
    """Find the axis and its base, resolve the settings and read the pairs, or take given ones.

    Sources may ask the base for answers, which `progress` then shows; with `few`, for a batch at
    most that is not in the cache.
    """
    started = time.perf_counter()
    check_tags(request.tags)
    thresholds = read_thresholds(request.guards)
    request.lora_options()  # what is no rank is told before anything is looked for
    found = _find_axis(access, request, note)
    axis = found.installed.axis
    base = _choose_base(access, request.base, note)
    lora = request.lora_options(base.bundled.lora if base.bundled else None)
    if note is not None and lora is not None and request.lora is None:
        note(f"LoRA of rank {lora.rank}, as {base} has it by default (--lora 0: whole weights).")
    with quiet():  # what could not be stored is not trained
        find_conversion(empty_model(base), base.checkpoint, whole=lora is None)
    kind, default = own_defaults(request, axis, base, note)
    settings = resolve_settings(
        assignments=request.settings,
        config=request.config,
        preset=request.preset,
        default=default,
        max_length=request.max_length,
        lora=lora is not None,
        poles=kind,
    )
    settings, precision = choose_precision(
        settings, base, lora=lora is not None, four_bit=request.four_bit
    )
    poles: dict[Pole, str | None] = {"positive": request.plus, "negative": request.minus}
    existing = find_existing_pole(base, poles, lora=lora is not None)
    if note is not None and existing is not None:
        _note_existing(existing, base, note)
    if access.is_present():
        with access.reading() as store:
            store.check_names(axis.name, axis.aliases)
    asked = AnsweringBase(
        lambda: base,
        options=read_assignments(request.template_options),
        few=few,
        progress=progress,
        tell=note,
    )
    mixture = given_pairs or open_rows(
        axis,
        data=request.data,
        base=base.name,
        limit=request.limit,
        revision=request.revision,
        seed=request.seed,
        data_licence=request.data_licence,
        accept_licence=request.accept_licence,
        note=note,
        asked=asked,
    )
    pairs = build_pairs(
        mixture.pairs,
        axis_name=axis.name,
        seed=request.seed,
        length_balanced=request.length_balanced,
    )
    asked.release()
    if note is not None and (ended := mixture.early_end):
        note(ended)
    # Some axes of a closed world hold no benign prompt out.
    benign = base.world.safe_prompts(split="dev", limit=_BENIGN) if base.world else ()
    return AxisRun(
        request,
        found,
        base,
        settings,
        lora,
        existing,
        Guards(thresholds, request.watch, request.answers, tuple(benign)),
        mixture,
        pairs,
        precision,
        kind,
        time.perf_counter() - started,
    )


def own_defaults(
    request: AxisRequest, axis: Axis, base: BaseModel, note: Note | None
) -> tuple[Poles, dict[str, object]]:
    """Return the kind of poles, and the settings that lie under what the request asks for.

    What suits the axis on this base goes for the poles that it names, and gives way to a preset.
    """
    if base.bundled is None:
        return request.poles or "dpo", {}
    settings = dict(base.bundled.training)
    own = dict(axis.training.get(base.bundled.name, {})) if request.preset is None else {}
    kind: Any = own.pop("poles", "dpo")
    if kind not in POLES:
        raise AxisError(
            f"Axis {axis.name!r} has poles {kind!r} on {base}, not {' or '.join(POLES)}."
        )
    if request.poles not in (None, kind):
        return request.poles, settings
    if own and note is not None:
        changed = "".join(f", {name}={value}" for name, value in own.items())
        note(f"As {axis.name} has it on {base} by default: --poles {kind}{changed}.")
    return kind, settings | own


def _find_axis(access: Access, request: AxisRequest, note: Note | None) -> FoundAxis:
    """Find the axis, or declare it on the spot where rows are given for a name that is free."""
    name, catalog = request.name, load_axes()
    data = (request.data,) if isinstance(request.data, str) else tuple(request.data or ())
    if not data or not AXIS_NAME.fullmatch(name) or not catalog.is_free(name):
        if request.new:
            raise UsageError(
                "--new makes an axis of rows: it takes a name that no plugin has, and --data FILE."
            )
        return find_axis(name)
    known: set[str] = set()
    if access.is_present():
        with access.reading() as store:
            known.update(*((axis, *aliases) for axis, aliases in store.axes().items()))
    meant = did_you_mean(name, [*catalog.names, *sorted(known)])
    if meant and name not in known and not request.new:
        raise AxisError(
            f"No axis {name!r} is installed.{meant} If {name!r} is meant, a new axis of these "
            "rows, add --new."
        )
    found = declare_axis(name)
    try:
        wanted = read_wanted(found.installed.axis, data, request.revision)
    except DataError as error:
        raise DataError(
            f"No axis {name!r} is installed, and of --data {', '.join(data)} none can be made: "
            "there is no such file."
        ) from error
    if note is not None:
        files = " and ".join(Path(each.name).name for each in wanted)
        note(f"{name} is no installed axis: taking the rows of {files} as they stand (chosen = +).")
    return found


def _note_existing(existing: ExistingPole, base: BaseModel, note: Note) -> None:
    found, of_base = existing.model.fingerprint, base.fingerprint
    note(f"The {existing.pole} pole is {existing.model}; only the other one is trained.")
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


def extract_pair(pair: TrainedPair, blob: Path) -> Extraction:
    """Store φ of whole weights in the dtype that is asked for, or that of adapters by factors."""
    run = pair.run
    if run.lora is not None:
        return extract_factors(
            positive=run.lora.factors(pair.positive.weights),
            negative=run.lora.factors(pair.negative.weights),
            destination=blob,
        )

    return extract(
        positive=as_source(pair.positive.weights),
        negative=as_source(pair.negative.weights),
        reference=as_source(pair.original),
        destination=blob,
        dtype=_STORAGE[run.request.dtype],
    )


def _observe(
    pair: TrainedPair, blob: Path, progress: Progress | None, note: Note | None
) -> Behaviour:
    """See what the vector does; one that makes answers loop is refused as a collapsed pole is."""
    with quiet(), pair.timed("behaviour"):
        found = observe(pair, blob, steps_of(progress, "answers at η = ±1"))
    if note is not None:
        for sentence in found.notes:
            note(f"{sentence.rstrip('.')}.")
    request = pair.run.request
    enforce(found.failures, axis_name=pair.run.axis.name, keep_anyway=request.keep_anyway)
    return found


def _metadata(
    pair: TrainedPair, extraction: Extraction, behaviour: Behaviour, seconds: float
) -> dict[str, Any]:
    run, tokens, plugin = pair.run, pair.run.tokens, pair.run.found.installed.plugin
    return {
        "plugin": {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "licence": run.axis.licence,
        },
        **_declared(run.found),
        "base": {
            **({"gguf": fields_to_json(run.base.gguf)} if run.base.gguf else {}),
            **recorded_licence(run.base),
        },
        "data": {
            "source": run.mixture.source,
            "origin": run.mixture.origin,
            "revision": run.mixture.revision,
            "sources": run.mixture.describe_parts(),
            "length_balanced": run.request.length_balanced,
            "too_long": run.request.too_long,
            "fingerprint": run.pairs.fingerprint,
            "renderings": list(tokens.renderings),
            "audit": tokens.audit.to_json(),
        },
        "training": {
            "seed": run.request.seed,
            "poles": run.poles,
            "settings": run.settings_in_use(),
            "defaults": run.settings_left(),
            "guards": asdict(run.guards.thresholds),
            "watched": run.guards.watched,
            "asked": run.guards.prompts,
            "shortcuts": pair.shortcuts.to_json(),
            "precision": run.precision.to_json(),
            "configuration": run.base.fingerprint.configuration,
        }
        | ({"template_options": run.template_options} if run.template_options else {})
        | ({"lora": run.lora.to_json()} if run.lora else {}),
        "poles": {"positive": pair.positive.to_json(), "negative": pair.negative.to_json()},
        "behaviour": behaviour.to_json(),
        "geometry": extraction.to_json(),
        "environment": {
            "packages": package_versions(),
            "hardware": pair.hardware,
            "peak_memory": pair.peak_memory,
            **pair.ranks.to_json(),
            "reference": {pole: found.origin for pole, found in pair.references.items()},
        },
        "seconds": {**pair.seconds, "total": seconds},
    }


def _declared(found: FoundAxis) -> dict[str, Any]:
    """Keep the YAML file of an axis that nothing else keeps."""
    if found.declaration is None:
        return {}
    return {"declaration": found.declaration.to_json()}


@dataclass(frozen=True, slots=True)
class AxisPreview(JsonFields):
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
    settings: dict[str, Any]
    template_options: dict[str, Any]
    """What the chat template is told of all rows."""
    examples: tuple[list[PreviewToken], ...] = ()
    notes: tuple[str, ...] = ()
    """What a run would say of its rows, a sentence each."""


def preview_axis(
    access: Access,
    request: AxisRequest,
    note: Note | None = None,
    progress: Progress | None = None,
) -> AxisPreview:
    """Do everything up to the training, and show a few examples token by token."""
    run = prepare(access, request, note, progress=progress, few=True)
    tokens = run.tokens
    return AxisPreview(
        axis=run.axis.name,
        base=run.base.name,
        source=run.mixture.origin,
        revision=run.mixture.revision,
        sources=run.mixture.describe_parts(),
        audit=tokens.audit,
        max_length=tokens.max_length,
        renderings=tokens.renderings,
        settings=run.settings.to_json(),
        template_options=run.template_options,
        examples=tuple(preview_tokens(tokens.positive[:3], run.tokenizer)),
        notes=run.row_notes,
    )
