"""Import φ from what other tools trained: two checkpoints or two adapters, or one and the base."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefreg.axes import AXIS_NAME
from prefreg.checkpoints import BaseModel, Checkpoint, resolve_base
from prefreg.checkpoints.fingerprint import fingerprint
from prefreg.errors import AxisError, UsageError
from prefreg.flows.access import Access
from prefreg.flows.extracting import geometry
from prefreg.flows.resolve import identify
from prefreg.plugins import load_axes
from prefreg.registry import NewVersion, VersionRecord
from prefreg.training.environment import package_versions
from prefreg.training.preflight import check_disk
from prefreg.vectors import CheckpointTensors, Extraction, extract, extract_factors
from prefreg.vectors.adapters import read_adapter
from prefreg.vectors.adapters.config import CONFIG_FILE


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What is to be imported; every default is the command line's."""

    name: str
    plus: Path
    base: str
    minus: Path | None = None
    positive_only: bool = False
    """φ₊ = θ₊ − θ_base, where there is no negative pole."""
    dtype: str = "float32"
    """Storage dtype of a vector of checkpoints: float32 or bfloat16."""
    note: str | None = None


def import_vector(access: Access, request: ImportRequest) -> VersionRecord:
    """Store the difference of two models that were trained elsewhere as a version."""
    _check(request)
    name, aliases = _names(request.name)
    if access.is_present():
        with access.reading() as store:
            store.check_names(name, aliases)
    base = resolve_base(request.base)
    adapters = _is_adapter(request.plus)
    with tempfile.TemporaryDirectory(prefix="prefreg-") as folder:
        blob = Path(folder) / "vector.safetensors"
        if adapters:
            extraction, poles = _from_adapters(request, base, blob)
        else:
            check_disk(Path(folder), 4 * base.fingerprint.parameters)
            extraction, poles = _from_checkpoints(request, base, blob)
        new = NewVersion(
            axis=name,
            axis_aliases=aliases,
            kind="low-rank" if adapters else "dense",
            dtype="BF16" if request.dtype == "bfloat16" else "F32",
            base=identify(base),
            metadata={
                "contrast": "positive-only" if request.positive_only else "pair",
                "import": {"form": "adapters" if adapters else "checkpoints", **poles},
                "geometry": geometry(extraction),
                "environment": {"packages": package_versions()},
            },
            note=request.note,
        )
        with access.writing() as store:
            return store.add(new, blob)


def _check(request: ImportRequest) -> None:
    if not AXIS_NAME.fullmatch(request.name):
        raise UsageError(f"{request.name!r} is no axis name.")
    if (request.minus is None) != request.positive_only:
        raise UsageError(
            "Give the negative pole by --minus, or say --positive-only if there is none."
        )
    folders = [request.plus, *([request.minus] if request.minus else [])]
    if len({_is_adapter(folder) for folder in folders}) > 1:
        raise UsageError(
            "One pole is an adapter and the other is not. Merge the adapter into its base first."
        )
    if _is_adapter(request.plus) and request.dtype != "float32":
        raise UsageError("Factors are small and stored in float32: leave --dtype out.")


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
    request: ImportRequest, base: BaseModel, blob: Path
) -> tuple[Extraction, dict[str, Any]]:
    plus = read_adapter(request.plus, base.checkpoint)
    minus = read_adapter(request.minus, base.checkpoint) if request.minus else None
    extraction = extract_factors(
        positive=plus.factors, negative=minus.factors if minus else {}, destination=blob
    )
    poles = {
        pole: {
            "name": adapter.config.path.parent.resolve().name,
            "rank": adapter.config.rank,
            "alpha": adapter.config.alpha,
            "rslora": adapter.config.rslora,
        }
        for pole, adapter in (("positive", plus), ("negative", minus))
        if adapter
    }
    return extraction, poles


def _from_checkpoints(
    request: ImportRequest, base: BaseModel, blob: Path
) -> tuple[Extraction, dict[str, Any]]:
    plus = Checkpoint.open(request.plus)
    minus = Checkpoint.open(request.minus) if request.minus else None
    origin = CheckpointTensors(base.checkpoint)
    extraction = extract(
        positive=CheckpointTensors.of_pole(plus, base.checkpoint),
        negative=CheckpointTensors.of_pole(minus, base.checkpoint) if minus else origin,
        reference=origin,
        destination=blob,
        dtype="BF16" if request.dtype == "bfloat16" else "F32",
    )
    poles = {
        pole: {"name": found.path.resolve().name, "weights": fingerprint(found).weights}
        for pole, found in (("positive", plus), ("negative", minus))
        if found
    }
    return extraction, poles
