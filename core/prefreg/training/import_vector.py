"""Import φ from what other tools made: two models or adapters, one of them, or a task vector."""

from pathlib import Path
from typing import Any

from prefreg.axes.plugins import load_axes
from prefreg.checkpoints import BaseModel, Checkpoint, resolve_base
from prefreg.checkpoints.fingerprint import fingerprint
from prefreg.composition.resolve import identify
from prefreg.errors import AxisError, UsageError
from prefreg.files import work_folder
from prefreg.registry import Access, NewVersion, VersionRecord
from prefreg.registry.licences import recorded_licence
from prefreg.registry.records import Kind, StorageDtype
from prefreg.terms import AXIS_NAME
from prefreg.training.axis_request import ImportRequest
from prefreg.training.resources import check_disk, package_versions
from prefreg.vectors.extraction import (
    Extraction,
    extract,
    extract_factors,
    open_differences,
    store_difference,
)
from prefreg.vectors.lowrank import FactorTensors, subtract
from prefreg.vectors.peft_adapters import CONFIG_FILE, read_adapter
from prefreg.vectors.tensors import CheckpointTensors

_STORAGE: dict[str, StorageDtype] = {"float32": "F32", "bfloat16": "BF16"}


def import_vector(access: Access, request: ImportRequest) -> VersionRecord:
    """Store the difference of two models that were trained elsewhere as a version."""
    poles = _poles(request)
    name, aliases = _names(request.name)
    if access.is_present():
        with access.reading() as store:
            store.check_names(name, aliases)
    base = resolve_base(request.base)
    adapters = any(map(_is_adapter, poles))
    with work_folder() as folder:
        blob = Path(folder) / "vector.safetensors"
        kind: Kind = "dense"
        if adapters:
            kind, extraction, origin = _from_adapters(poles, base, blob)
        else:
            check_disk(Path(folder), 4 * base.fingerprint.parameters)
            take = _from_checkpoints if poles else _from_task_vector
            extraction, origin = take(request, base, blob)
        new = NewVersion(
            axis=name,
            axis_aliases=aliases,
            kind=kind,
            dtype=_STORAGE[request.dtype],
            base=identify(base),
            metadata={
                "contrast": "positive-only" if request.positive_only else "pair",
                "base": recorded_licence(base),
                "import": origin,
                "geometry": extraction.to_json(),
                "environment": {"packages": package_versions()},
            },
            note=request.note,
        )
        with access.writing() as store:
            return store.add(new, blob)


def _poles(request: ImportRequest) -> tuple[Path, ...]:
    """Return the folders of the poles, none for a task vector, when all fits together."""
    if not AXIS_NAME.fullmatch(request.name):
        raise UsageError(f"{request.name!r} is no axis name.")
    if (request.plus is None) == (request.task_vector is None):
        raise UsageError("Give the positive pole by --plus, or a --task-vector (not both).")
    if request.plus is None:
        if request.minus is not None or request.positive_only == request.of_pair:
            raise UsageError(
                "Say what the task vector is: --positive-only for θ₊ − θ_base, --of-pair for "
                "θ₊ − θ₋. It has no --minus."
            )
        return ()
    if (request.minus is None) != request.positive_only or request.of_pair:
        raise UsageError(
            "Give the negative pole by --minus, or say --positive-only if there is none. "
            "--of-pair belongs to --task-vector."
        )
    poles = (request.plus,) if request.minus is None else (request.plus, request.minus)
    if len({_is_adapter(folder) for folder in poles}) > 1:
        raise UsageError(
            "One pole is an adapter and the other is not. Merge the adapter into its base first."
        )
    if _is_adapter(request.plus) and request.dtype != "float32":
        raise UsageError("Factors are small and stored in float32: leave --dtype out.")
    return poles


def _names(name: str) -> tuple[str, tuple[str, ...]]:
    """Return name and aliases of the installed axis, or the name as it is: none need be there."""
    try:
        axis = load_axes().find(name).axis
    except AxisError:
        return name, ()
    return axis.name, tuple(axis.aliases)


def _is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _from_adapters(
    folders: tuple[Path, ...], base: BaseModel, blob: Path
) -> tuple[Kind, Extraction, dict[str, Any]]:
    """Store factors; with weights that were trained whole beside them, all is dense."""
    found = [read_adapter(folder, base.checkpoint) for folder in folders]
    minus = found[1].factors if len(found) > 1 else {}
    whole = [adapter.whole for adapter in found]
    kind: Kind = "low-rank"
    if any(whole):
        kind = "dense"
        phi = dict(whole[0])
        for name, moved in whole[1].items() if len(whole) > 1 else ():
            phi[name] = phi[name] - moved if name in phi else -moved
        parts = FactorTensors(subtract(found[0].factors, minus), phi)
        extraction = store_difference(parts, blob)
    else:
        extraction = extract_factors(positive=found[0].factors, negative=minus, destination=blob)
    poles = {
        pole: {
            "name": adapter.config.path.parent.resolve().name,
            "rank": adapter.config.rank,
            "alpha": adapter.config.alpha,
            "rslora": adapter.config.rslora,
        }
        | ({"whole": sorted(adapter.whole)} if adapter.whole else {})
        for pole, adapter in zip(("positive", "negative"), found, strict=False)
    }
    return kind, extraction, {"form": "adapters", **poles}


def _from_checkpoints(
    request: ImportRequest, base: BaseModel, blob: Path
) -> tuple[Extraction, dict[str, Any]]:
    assert request.plus is not None  # as _poles saw
    plus = Checkpoint.open(request.plus)
    minus = Checkpoint.open(request.minus) if request.minus else None
    origin = CheckpointTensors(base.checkpoint)
    extraction = extract(
        positive=CheckpointTensors.of_pole(plus, base.checkpoint),
        negative=CheckpointTensors.of_pole(minus, base.checkpoint) if minus else origin,
        reference=origin,
        destination=blob,
        dtype=_STORAGE[request.dtype],
    )
    poles = {
        pole: {"name": found.path.resolve().name, "weights": fingerprint(found).weights}
        for pole, found in (("positive", plus), ("negative", minus))
        if found
    }
    return extraction, {"form": "checkpoints", **poles}


def _from_task_vector(
    request: ImportRequest, base: BaseModel, blob: Path
) -> tuple[Extraction, dict[str, Any]]:
    assert request.task_vector is not None  # as _poles saw
    source = open_differences(request.task_vector, base.checkpoint)
    extraction = store_difference(source, blob, dtype=_STORAGE[request.dtype])
    name = request.task_vector.resolve().name
    return extraction, {"form": "task-vector", "name": name, "tensors": len(source.names)}
