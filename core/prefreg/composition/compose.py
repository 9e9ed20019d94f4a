"""Compose: terms → versions and base → plan → folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from prefreg.composition.composition_request import CompositionRequest, read_rule
from prefreg.composition.layout import parse_size, plan_files
from prefreg.composition.methods import find_method
from prefreg.composition.output import Composed, write_composition
from prefreg.composition.plan import Plan, PlannedTerm, opened
from prefreg.composition.recipe import SCHEMA
from prefreg.composition.resolve import (
    Resolution,
    range_warnings,
    refuse_mixed_contrasts,
    resolve_terms,
)
from prefreg.composition.rounding import Rounding, Survival
from prefreg.composition.streaming import buffer_bytes, estimate_seconds
from prefreg.errors import PrefregError, UsageError, VectorError, one_line
from prefreg.files import ByteRanges
from prefreg.json_values import fields_to_json, parse_json
from prefreg.plain_yaml import load_yaml
from prefreg.progress import Progress
from prefreg.registry import Access, Store
from prefreg.requests import make_request
from prefreg.terms import Term, parse_reference
from prefreg.values import MAX_SEED, check_number, read_small
from prefreg.vectors.stored import parse_dtype, require_device
from prefreg.wording import is_unicode


@dataclass(frozen=True, slots=True)
class CompositionPlan:
    """What a composition would do; all sizes in bytes."""

    formula: str
    rule: str
    """What the method adds to the base."""
    base: str
    output: Path
    reads: dict[str, int]
    """Bytes by the file, or the version stored in the registry."""
    writes: dict[str, int]
    """Bytes by the weight file."""
    bytes_read: int
    bytes_written: int
    peak_memory: int
    """Of the whole process."""
    seconds: float
    """From a sample that was composed and not written; a cold or slow disk takes longer."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan in a form that JSON can hold."""
        return fields_to_json(self) | {
            "reads": [{"file": name, "bytes": size} for name, size in self.reads.items()],
            "writes": [{"file": name, "bytes": size} for name, size in self.writes.items()],
        }


def compose(
    access: Access, request: CompositionRequest, progress: Progress | None = None
) -> Composed:
    """Write the checkpoint that is asked for."""
    found, made = _checkpoint_plan(access, request)
    written = write_composition(
        made,
        request.output,
        dtype=request.dtype,
        overwrite=request.overwrite,
        max_shard_size=request.max_shard_size,
        rounding=Rounding(request.rounding, request.seed),
        device=request.device,
        durable=request.durable,
        hashed=request.hash_files,
        progress=progress,
    )
    _relocate(access, request, found)
    return replace(written, warnings=tuple(_warnings(found, written.survival)))


def plan(access: Access, request: CompositionRequest) -> CompositionPlan:
    """Say what a composition would read and write."""
    found, made = _checkpoint_plan(access, request)
    size = request.max_shard_size
    files = plan_files(
        found.base.checkpoint,
        dtype=parse_dtype(request.dtype) if request.dtype else None,
        max_shard_size=parse_size(size) if size else None,
    )
    reads: dict[str, int] = {}
    for tensor in found.base.checkpoint.tensors.values():
        path = str(tensor.file)
        reads[path] = reads.get(path, 0) + tensor.spec.nbytes
    for term in made.active:
        stored = isinstance(term.source, bytes)
        reads[str(term.record) if stored else str(term.source)] = term.record.size
    require_device(request.device)
    with opened(made) as open_plan:
        rounding = Rounding(request.rounding, request.seed)
        seconds = estimate_seconds(open_plan, files, rounding=rounding, device=request.device)
    ahead = [each.source.memory for each in made.active if isinstance(each.source, ByteRanges)]
    buffers = buffer_bytes(len(made.active)) + sum(ahead)
    return CompositionPlan(
        formula=made.formula,
        rule=made.rule,
        base=str(found.base),
        output=request.output,
        reads=reads,
        writes={file.name: file.size for file in files},
        bytes_read=sum(reads.values()),
        bytes_written=sum(file.size for file in files),
        peak_memory=psutil.Process().memory_info().rss + buffers,
        seconds=seconds,
    )


def _checkpoint_plan(access: Access, request: CompositionRequest) -> tuple[Resolution, Plan]:
    if request.max_rank is not None:
        raise UsageError("A rank is bounded in adapters only: add --as adapter to --max-rank.")
    return resolve_plan(access, request)


def resolve_plan(access: Access, request: CompositionRequest) -> tuple[Resolution, Plan]:
    """Find what is to be composed, without reading a vector."""
    if not request.terms:
        raise UsageError("A composition needs at least one term, as in helpful:1.")
    with access.reading() as store:
        found = resolve_terms(
            store, request.terms, request.base, force_base=request.force_base, at=request.at
        )
        _check_hashes(found, request)
        names = {axis: store.canonical(axis) or axis for axis in dict(request.rules)}
        terms = [
            PlannedTerm(
                term.record,
                term.eta,
                store.vector_source(term.record, rehash=request.verify),
                tuple(rule for axis, rule in request.rules if names[axis] == term.record.axis),
            )
            for term in found.terms
        ]
        options = _canonical_options(store, request, found)
    method = find_method(request.method)
    made = Plan(found.base, terms, force_base=request.force_base, method=method, options=options)
    if not request.mix_contrasts:
        refuse_mixed_contrasts([term.record for term in made.active])
    return found, made


def _canonical_options(
    store: Store, request: CompositionRequest, found: Resolution
) -> dict[str, object]:
    options = dict(request.options)
    if "protect" in options:
        written = [name.strip() for name in str(options["protect"]).split(",") if name.strip()]
        axes = [store.canonical(name) or name for name in written]
        absent = set(axes) - {term.record.axis for term in found.terms}
        if absent:
            raise UsageError(f"{min(absent)!r} is protected, but it is no term of the composition.")
        options["protect"] = ",".join(axes)
    return options


def _check_hashes(found: Resolution, request: CompositionRequest) -> None:
    stored = {term.record.axis: term.record for term in found.terms}
    for axis, sha256 in request.hashes:
        record = stored.get(axis)
        if record is not None and record.sha256 != sha256:
            raise VectorError(
                f"The recipe names a vector of {axis} with sha256 {sha256[:12]}, but {record} has "
                f"{record.sha256[:12]}. It was made with another registry."
            )


def _relocate(access: Access, request: CompositionRequest, found: Resolution) -> None:
    """Record where a base that had moved was found, if this registry can be written."""
    if request.base is None or not Path(found.base.name).is_absolute():
        return
    with access.reading() as store:
        record = store.base(found.base.fingerprint.weights)
        known = record.path if record else None
    if known is None or known == found.base.name or Path(known).is_dir():
        return
    with access.changing() as store:
        store.relocate_base(found.base.fingerprint.weights, found.base.name)


def _warnings(found: Resolution, survival: Survival | None) -> list[str]:
    warnings = range_warnings(found.terms)
    if survival is not None and survival.warning:
        warnings.append(survival.warning)
    base = found.base.fingerprint
    for term in found.terms:
        recorded = term.record.base
        if (recorded.tokenizer, recorded.template) != (base.tokenizer, base.template):
            warnings.append(
                f"{term.record} was trained with another tokenizer or chat template than "
                f"{found.base} has."
            )
    return warnings


def read_recipe(path: Path, **options: object) -> CompositionRequest:
    """Read a recipe, such as the `prefreg.json` of an output; options given win over it."""
    make_request(CompositionRequest, (), **options)  # refuses what a composition does not have
    try:
        content = _parse(read_small(path, UsageError).decode("utf-8"))
        unset = (None, False, ())  # by identity: 0 is a seed
        given = {key: value for key, value in options.items() if all(value is not x for x in unset)}
        return _read_recipe(content, given)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is no recipe: {one_line(str(error))}.") from error
    except PrefregError as error:
        raise UsageError(f"{path} is no recipe: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{path} is no recipe: it needs 'schema', 'base' and 'terms' with axis, eta and "
            f"version ({type(error).__name__}: {error})."
        ) from error


def _parse(text: str) -> Any:
    """Read JSON, as outputs hold it, else YAML, which refuses some characters of folder names."""
    try:
        return parse_json(text)
    except ValueError:
        return load_yaml(text)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not is_unicode(value):
        raise UsageError(f"the {what} {value!r} is no text.")
    return value


def _optional_text(content: Mapping[str, Any], name: str) -> str | None:
    return None if content.get(name) is None else _text(content[name], name)


def _read_recipe(content: Any, options: Mapping[str, Any]) -> CompositionRequest:
    if not isinstance(content, Mapping):
        raise UsageError("it holds no mapping with 'schema', 'base' and 'terms'.")
    if content["schema"] != SCHEMA:
        raise UsageError(f"Only schema {SCHEMA} is known.")
    terms, hashes, rules = [], [], []
    for item in content["terms"]:
        axis, _ = parse_reference(_text(item["axis"], "axis"))
        version = item.get("version")
        reference = axis if version is None else f"{axis}@{version}"
        eta = check_number(float(item["eta"]), f"the eta of {axis}")
        terms.append(Term(axis, eta, parse_reference(reference)[1]))
        rules += [(axis, read_rule(rule)) for rule in item.get("rules", ())]
        if "sha256" in item:
            hashes.append((axis, _text(item["sha256"], "sha256")))
    base = content["base"]
    spec = _text(base["name"], "name")
    if base.get("revision"):
        spec += f"@{_text(base['revision'], 'revision')}"
    known: dict[str, Any] = {
        "base": spec,
        "dtype": _optional_text(content, "dtype"),
        "max_shard_size": _optional_text(content, "max_shard_size"),
        "rounding": str((content.get("rounding") or {}).get("kind", "nearest")),
        "seed": check_number(
            int((content.get("rounding") or {}).get("seed", 0)), "seed", low=0, high=MAX_SEED
        ),
        "hash_files": content.get("files") is not None,
    }
    known |= {"form": content.get("as", "checkpoint"), "max_rank": content.get("max_rank")}
    method = str(content.get("method", "linear"))
    settings = {} if options.get("method", method) != method else content.get("options") or {}
    known |= {"method": method, **options}
    known["options"] = tuple({**settings, **dict(options.get("options", ()))}.items())
    return CompositionRequest(tuple(terms), rules=tuple(rules), hashes=tuple(hashes), **known)
