"""Stored vectors for other tools: an adapter, a checkpoint, or a folder that mergekit merges.

For mergekit that is a linear composition: the full models it merges, and the file that says how.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.adapter import Compression, compose_adapter
from prefreg.composition.compose import compose, resolve_plan
from prefreg.composition.composition_request import CompositionRequest, ExportRequest, Form
from prefreg.composition.layout import plan_files
from prefreg.composition.output import (
    SMALL_FILES_BYTES,
    new_folder,
    write_composition,
    write_file,
    write_recipe,
)
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.recipe import recipe
from prefreg.errors import UsageError
from prefreg.json_values import JsonFields
from prefreg.progress import Progress
from prefreg.registry import Access
from prefreg.terms import Term, parse_reference, parse_term
from prefreg.vectors.stored import DTYPE_NAMES

CONFIG_FILE = "mergekit.yml"
_DTYPE = "F32"  # in the base's own, differences of small vectors would be rounded away


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    form: Form
    written: dict[str, Any]
    """As the composition of that form describes itself, in values that JSON can hold."""
    compression: Compression | None = None
    """What an adapter lost."""

    def to_json(self) -> dict[str, Any]:
        """Return the result in a form that JSON can hold."""
        return {"as": self.form, **self.written}


@dataclass(frozen=True, slots=True)
class MergekitFolder(JsonFields):
    """A folder that mergekit can work from."""

    path: Path
    formula: str
    base: str
    size: int
    """Bytes of all weight files."""
    config: str
    """The file in it that says how."""
    models: tuple[str, ...]
    """The folders of θ_base + φ in it, in the order of the terms."""


def export(access: Access, request: ExportRequest, progress: Progress | None = None) -> Exported:
    """Write stored vectors for another tool."""
    _refuse_strangers(request)
    if request.form == "mergekit":
        return Exported("mergekit", _to_mergekit(access, request, progress).to_json())
    if len(request.what) != 1:
        raise UsageError(f"An exported {request.form} is of one version: give one AXIS[@V].")
    axis, reference = parse_reference(request.what[0])
    term = Term(axis, -1.0 if request.sign == "minus" else 1.0, reference)
    wanted = CompositionRequest(
        (term,),
        request.output,
        base=request.base,
        dtype=request.dtype,
        max_rank=request.max_rank,
        overwrite=request.overwrite,
        form=request.form,
    )
    if request.form == "adapter":
        made = compose_adapter(access, wanted)
        return Exported("adapter", made.to_json(), made.compression)
    return Exported("checkpoint", compose(access, wanted, progress).to_json())


def write_mergekit(
    plan: Plan, destination: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> MergekitFolder:
    """Write θ_base + φᵢ in float32 for every term, and a `task_arithmetic` that sums them.

    mergekit takes the differences again and adds Σ ηᵢ·φᵢ to the base, without normalising. The
    folder appears whole or not at all.
    """
    if not plan.active:
        raise UsageError("Every coefficient is 0, so there is nothing for mergekit to merge.")
    checkpoint = plan.base.checkpoint
    one = sum(file.size for file in plan_files(checkpoint, dtype=_DTYPE, max_shard_size=None))
    needed = len(plan.active) * (one + SMALL_FILES_BYTES) + SMALL_FILES_BYTES
    names = [f"{term.record.axis}-{term.record.number}" for term in plan.active]
    size = 0
    with new_folder(
        destination, needed=needed, overwrite=overwrite, keep=plan.read_paths
    ) as folder:
        for term, name in zip(plan.active, names, strict=True):
            alone = Plan(
                plan.base,
                [PlannedTerm(term.record, 1.0, term.source)],
                force_base=plan.force_base,
            )
            size += write_composition(
                alone, folder / name, dtype=DTYPE_NAMES[_DTYPE], progress=progress
            ).size
        write_file(folder / CONFIG_FILE, _config(plan, names))
        content = recipe(plan, dtype=None, files=None, survival=None)
        write_recipe(folder, content)
    return MergekitFolder(
        destination, plan.formula, str(plan.base), size, CONFIG_FILE, tuple(names)
    )


def _refuse_strangers(request: ExportRequest) -> None:
    belongs = {
        "--sign": ("checkpoint", request.sign),
        "--dtype": ("checkpoint", request.dtype),
        "--max-rank": ("adapter", request.max_rank),
    }
    for option, (form, value) in belongs.items():
        if value is not None and request.form != form:
            raise UsageError(f"{option} belongs to --as {form}, not to --as {request.form}.")


def _to_mergekit(
    access: Access, request: ExportRequest, progress: Progress | None
) -> MergekitFolder:
    terms = tuple(map(parse_term, request.what))
    _, made = resolve_plan(access, CompositionRequest(terms, request.output, base=request.base))
    return write_mergekit(made, request.output, overwrite=request.overwrite, progress=progress)


def _config(plan: Plan, names: list[str]) -> bytes:
    content: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": _model(plan.base),
        "models": [
            {"model": {"model": {"path": f"./{name}"}}, "parameters": {"weight": term.eta}}
            for term, name in zip(plan.active, names, strict=True)
        ],
        "parameters": {"normalize": False},
        "dtype": DTYPE_NAMES[_DTYPE],
    }
    if plan.base.fingerprint.dtype in DTYPE_NAMES:
        content["out_dtype"] = DTYPE_NAMES[plan.base.fingerprint.dtype]
    head = f"# {plan.formula}\n# In this folder: mergekit-yaml {CONFIG_FILE} ../merged\n"
    return (head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode()


def _model(base: BaseModel) -> dict[str, Any]:
    # As a mapping: in a string, mergekit reads + and @ as an adapter and a revision.
    if base.revision is None:
        return {"model": {"path": str(base.path)}}
    return {"model": {"path": base.name, "revision": base.revision}}
