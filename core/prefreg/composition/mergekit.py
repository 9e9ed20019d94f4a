"""A linear composition for mergekit: the full models it merges, and the file that says how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.folder import RECIPE_FILE, new_folder, write_file
from prefreg.composition.layout import plan_files
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.recipe import recipe, recipe_file
from prefreg.composition.streaming import Progress
from prefreg.errors import UsageError
from prefreg.vectors.elements import DTYPE_NAMES

CONFIG_FILE = "mergekit.yml"

_SMALL_FILES_BYTES = 1 << 20
_DTYPE = "F32"  # in the base's own, differences of small vectors would be rounded away


@dataclass(frozen=True, slots=True)
class MergekitFolder:
    """A folder that mergekit can work from."""

    path: Path
    formula: str
    models: tuple[str, ...]
    """The folders of θ_base + φ in it, in the order of the terms."""
    size: int
    """Bytes of all weight files."""


def write_mergekit(
    plan: Plan, destination: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> MergekitFolder:
    """Write θ_base + φᵢ in float32 for every term, and a `task_arithmetic` that sums them.

    mergekit takes the differences again and adds Σ ηᵢ·φᵢ to the base, without normalising. The
    folder appears whole or not at all.

    Raises:
        UsageError: Every coefficient is 0.
        PrefregError: As for a composition.
    """
    if not plan.active:
        raise UsageError("Every coefficient is 0, so there is nothing for mergekit to merge.")
    checkpoint = plan.base.checkpoint
    one = sum(file.size for file in plan_files(checkpoint, dtype=_DTYPE, max_shard_size=None))
    needed = len(plan.active) * (one + _SMALL_FILES_BYTES) + _SMALL_FILES_BYTES
    keep = [checkpoint.path, *(t.source for t in plan.terms if isinstance(t.source, Path))]
    names = [f"{term.record.axis}-{term.record.number}" for term in plan.active]
    size = 0
    with new_folder(destination, needed=needed, overwrite=overwrite, keep=keep) as folder:
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
        write_file(folder / RECIPE_FILE, recipe_file(content))
    return MergekitFolder(destination, plan.formula, tuple(names), size)


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
