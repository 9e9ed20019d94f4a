"""Composing into one PEFT adapter: Σ ηᵢ·φᵢ without its base."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefreg.checkpoints.checkpoint import listed
from prefreg.checkpoints.safetensors_file import SafetensorsWriter
from prefreg.composition.card import CARD_FILE, adapter_card
from prefreg.composition.compose import resolve_plan
from prefreg.composition.composition_request import CompositionRequest
from prefreg.composition.factoring import Compression, factor_sum
from prefreg.composition.methods.linear import LINEAR
from prefreg.composition.output import RECIPE_FILE, new_folder, write_file
from prefreg.composition.plan import Plan
from prefreg.composition.recipe import recipe, recipe_file
from prefreg.errors import UsageError, VectorError
from prefreg.files import hash_bytes
from prefreg.registry.access import Access
from prefreg.vectors.adapters.adapter_config import CONFIG_FILE, linear_layers
from prefreg.vectors.adapters.adapter_files import (
    METADATA,
    WEIGHTS_FILE,
    adapter_config,
    adapter_tensors,
)
from prefreg.vectors.tensors import is_finite, to_bytes

FORM = "adapter"

_SMALL_FILES_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ComposedAdapter:
    """An adapter that has been written."""

    path: Path
    formula: str
    rank: int
    """The largest rank of a module."""
    ranks: dict[str, int]
    """By the weight's name on disk."""
    size: int
    """Bytes of the weight file."""
    compression: Compression | None


def write_adapter(
    plan: Plan,
    destination: Path,
    *,
    max_rank: int | None = None,
    overwrite: bool = False,
    durable: bool = False,
) -> ComposedAdapter:
    """Write Σ ηᵢ·φᵢ as one adapter that PEFT loads onto the base, with its recipe and card.

    Factors are concatenated, so nothing is lost unless `max_rank` is below the sum of the ranks, or
    a vector is dense: the sum for each layer is then truncated to that rank. Equal plans give equal
    bytes. The folder appears whole or not at all.
    """
    if plan.method is not LINEAR:
        raise UsageError(
            f"An adapter holds the plain sum of vectors, not {plan.method.name}. Leave "
            "--method out, or compose a checkpoint."
        )
    layers = linear_layers(plan.base.checkpoint)
    weights = frozenset(layer.weight for layer in layers.values())
    factors, compression = factor_sum(plan, weights=weights, max_rank=max_rank)
    tensors = adapter_tensors(factors, layers)
    _require_finite(tensors)
    base = plan.base
    name = base.name if base.revision else str(base.path)
    config = adapter_config(factors, layers, base=name, revision=base.revision)
    size = sum(tensor.nbytes for tensor in tensors.values())
    keep = [base.checkpoint.path, *(t.source for t in plan.terms if isinstance(t.source, Path))]
    with new_folder(
        destination,
        needed=size + _SMALL_FILES_BYTES,
        overwrite=overwrite,
        keep=keep,
        durable=durable,
    ) as folder:
        digest, size = _write_weights(folder / WEIGHTS_FILE, tensors)
        files = {WEIGHTS_FILE: digest, CONFIG_FILE: hash_bytes(config)}
        write_file(folder / CONFIG_FILE, config, durable=durable)
        content = recipe(plan, dtype=None, files=files, survival=None) | {
            "as": FORM,
            "max_rank": max_rank,
            "compression": compression.to_json() if compression else None,
        }
        card = adapter_card(plan, files=files, compression=compression)
        write_file(folder / RECIPE_FILE, recipe_file(content), durable=durable)
        write_file(folder / CARD_FILE, card, durable=durable)
    ranks = {weight: part.rank for weight, part in factors.items()}
    return ComposedAdapter(destination, plan.formula, max(ranks.values()), ranks, size, compression)


def _require_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise VectorError(
            f"{listed(broken)} overflow float32 in this composition. Use smaller coefficients."
        )


def _write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[str, int]:
    entries = [(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()]
    with SafetensorsWriter(path, entries, METADATA) as writer:
        for spec in writer.specs:
            writer.write(to_bytes(tensors[spec.name]))
        return writer.finish(), writer.size


VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """An adapter that was written, and what to know about serving it."""

    written: ComposedAdapter
    base: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result in a form that JSON can hold."""
        written = self.written
        return {
            "path": str(written.path),
            "formula": written.formula,
            "base": self.base,
            "size": written.size,
            "rank": written.rank,
            "ranks": written.ranks,
            "compression": written.compression.to_json() if written.compression else None,
            "warnings": list(self.warnings),
        }


def compose_adapter(access: Access, request: CompositionRequest) -> AdapterResult:
    """Write the composition that is asked for as an adapter."""
    _refuse_options_of_checkpoints(request)
    found, made = resolve_plan(access, request)
    written = write_adapter(
        made,
        request.output,
        max_rank=request.max_rank,
        overwrite=request.overwrite,
        durable=request.durable,
    )
    return AdapterResult(written, str(found.base), tuple(_serving(written.rank)))


def _refuse_options_of_checkpoints(request: CompositionRequest) -> None:
    given = {
        "--dtype": request.dtype,
        "--max-shard-size": request.max_shard_size,
        "--rounding": request.rounding != "nearest",
        "--seed": request.seed,
        "--device": request.device != "cpu",
    }
    if options := [name for name, value in given.items() if value]:
        verb = "belongs" if len(options) == 1 else "belong"
        raise UsageError(
            f"An adapter is one small file in float32, made on the CPU: {' and '.join(options)} "
            f"{verb} to checkpoints."
        )


def _serving(rank: int) -> list[str]:
    if rank in VLLM_RANKS:
        return []
    room = next((size for size in VLLM_RANKS if size >= rank), None)
    if room is None:
        return [
            f"vLLM serves adapters of rank {VLLM_RANKS[-1]} at most, and this one has rank {rank}; "
            "bound it with --max-rank."
        ]
    return [f"vLLM has no rank {rank}; serve it with --max-lora-rank {room}."]
