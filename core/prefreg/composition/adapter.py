"""Composing into one PEFT adapter: Σ ηᵢ·φᵢ as two factors for every linear layer, without its base.

The factors are exact where φ is low-rank, else the nearest.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from prefreg.checkpoints.base_licence import CARD_FILE
from prefreg.checkpoints.safetensors_file import SafetensorsWriter
from prefreg.composition.compose import resolve_plan
from prefreg.composition.composition_request import CompositionRequest, eta_of
from prefreg.composition.methods import LINEAR
from prefreg.composition.output import (
    SMALL_FILES_BYTES,
    new_folder,
    write_file,
    write_recipe,
)
from prefreg.composition.plan import OpenPlan, Plan, opened, rounded_eta
from prefreg.composition.recipe import adapter_card, recipe
from prefreg.errors import UsageError, VectorError, listed
from prefreg.files import hash_bytes
from prefreg.json_values import JsonFields
from prefreg.registry import Access
from prefreg.registry.licences import Licences
from prefreg.vectors import Vector
from prefreg.vectors.lora_layers import Experts, LoraLayer, LoraLayers, name_of
from prefreg.vectors.lowrank import (
    Factors,
    LowRankVector,
    Recompressed,
    concatenate,
    recompress,
    truncate,
)
from prefreg.vectors.peft_adapters import (
    CONFIG_FILE,
    METADATA,
    WEIGHTS_FILE,
    adapter_config,
    adapter_tensors,
    place_factors,
)
from prefreg.vectors.tensors import is_finite, to_bytes
from prefreg.wording import percent

FORM = "adapter"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""

_Part = tuple[float, Vector]
"""A coefficient that is not zero, and the vector that it belongs to."""


@dataclass(frozen=True, slots=True)
class Compression(JsonFields):
    """What a bound on the rank cost, as ‖lost‖ / ‖φ‖."""

    max_rank: int
    error: float
    """Over all weights together, those left out included."""
    errors: dict[str, float]
    """By the weight's name on disk."""
    left_out: dict[str, float] = field(default_factory=dict)
    """Weights of dense vectors that no adapter holds, and their shares of the squared error."""

    @property
    def lost(self) -> str:
        """The total and the worst weight, for people."""
        worst, error = max(self.errors.items(), key=lambda item: item[1])
        return f"{percent(self.error)} of φ (worst: {percent(error)} in {worst})"

    @property
    def omitted(self) -> str | None:
        """What was left out, for people."""
        if not self.left_out:
            return None
        most, _ = max(self.left_out.items(), key=lambda item: item[1])
        share = sum(self.left_out.values())
        return (
            f"{len(self.left_out)} weights that are no linear layers, {share:.1%} of the squared "
            f"error, most of it in {most}"
        )

    @property
    def card_line(self) -> str:
        """What a bound on the rank cost, for the card."""
        line = f"Recompressed to rank {self.max_rank}: relative error {self.error:.3g}."
        return f"{line} Left out: {self.omitted}." if self.omitted else line


@dataclass(frozen=True, slots=True)
class ComposedAdapter(JsonFields):
    """An adapter that has been written, and what to know about serving it."""

    path: Path
    formula: str
    base: str
    size: int
    """Bytes of the weight file."""
    rank: int
    """The largest rank of a module."""
    ranks: dict[str, int]
    """By the weight's name on disk."""
    compression: Compression | None
    licences: Licences
    """Of the base and of the vectors, as they were recorded."""
    warnings: tuple[str, ...]


def compose_adapter(access: Access, request: CompositionRequest) -> ComposedAdapter:
    """Write the composition that is asked for as an adapter."""
    _refuse_options_of_checkpoints(request)
    _, made = resolve_plan(access, request)
    return write_adapter(
        made,
        request.output,
        max_rank=request.max_rank,
        overwrite=request.overwrite,
        durable=request.durable,
    )


def write_adapter(
    plan: Plan,
    destination: Path,
    *,
    max_rank: int | None = None,
    overwrite: bool = False,
    durable: bool = False,
    layers: LoraLayers | None = None,
) -> ComposedAdapter:
    """Write Σ ηᵢ·φᵢ as one adapter that PEFT loads onto the base, with its recipe and card.

    Factors are concatenated, so nothing is lost unless `max_rank` is below the sum of the ranks, or
    a vector is dense: the sum for each layer is then truncated to that rank. Equal plans give equal
    bytes. The folder appears whole or not at all. Who writes many can give the base's `layers`,
    which take a second to find.
    """
    if plan.method is not LINEAR:
        raise UsageError(
            f"An adapter holds the plain sum of vectors, not {plan.method.name}. Leave "
            "--method out, or compose a checkpoint."
        )
    layers = layers or LoraLayers(plan.base.checkpoint)
    factors, compression = factor_sum(plan, layers, max_rank=max_rank)
    rank, placed = place_factors(factors, layers)
    tensors = adapter_tensors(placed)
    _require_finite(tensors)
    base = plan.base
    name = base.name if base.revision else str(base.path)
    config = adapter_config(rank, placed, layers, base=name, revision=base.revision)
    size = sum(tensor.nbytes for tensor in tensors.values())
    with new_folder(
        destination,
        needed=size + SMALL_FILES_BYTES,
        overwrite=overwrite,
        keep=plan.read_paths,
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
        told = compression.card_line if compression else None
        card = adapter_card(plan, files=files, told=told)
        write_file(folder / CARD_FILE, card, durable=durable)
        write_recipe(folder, content, durable=durable)
    ranks = {weight: part.rank for weight, part in factors.items()}
    return ComposedAdapter(
        destination,
        plan.formula,
        str(base),
        size,
        rank,
        ranks,
        compression,
        plan.licences,
        _serving(rank),
    )


def factor_sum(
    plan: Plan, layers: LoraLayers, *, max_rank: int | None
) -> tuple[dict[str, Factors], Compression | None]:
    """Return the factors of the sum for each layer, and what a bound on their rank cost.

    Dense vectors need the bound; what they change beside linear layers is left out and told.
    """
    holders = {n: e for n, e in layers.of_weights().items() if name_of(e) not in layers.refused}
    dense = [str(term.record) for term in plan.active if term.record.kind != "low-rank"]
    if dense and max_rank is None:
        are = "is" if len(dense) == 1 else "are"
        raise VectorError(
            f"{listed(dense)} {are} dense, and an adapter holds two factors for each layer. Bound "
            "their rank with --max-rank, which tells what is lost, or compose a checkpoint (leave "
            "--as adapter out)."
        )
    results: dict[str, Recompressed] = {}
    norms: dict[str, float] = {}
    strangers = []
    with opened(plan) as open_plan:
        for name in sorted({name for term in open_plan.terms for name in term.names}):
            parts = _parts(open_plan, name)
            if not parts:
                continue
            thin = all(isinstance(vector, LowRankVector) for _, vector in parts)
            layer = holders.get(name)
            plain = isinstance(layer, LoraLayer) and not layer.embedding
            if layer is not None and (thin or plain):
                if isinstance(layer, Experts) and max_rank is not None:
                    raise VectorError(
                        f"The rank of factors on experts, as {name!r}, cannot be bound: leave "
                        "--max-rank out, or compose a checkpoint."
                    )
                results[name] = _factors(name, parts, max_rank)
            elif thin:
                strangers.append(name)
            elif norm := float(torch.linalg.vector_norm(_dense(name, parts), dtype=torch.float64)):
                norms[name] = norm
    if strangers:
        raise VectorError(
            f"{listed(strangers)} {_why_not(strangers, layers, str(plan.base))}, so no adapter can "
            "hold them. Compose a checkpoint: leave --as adapter out."
        )
    if not results:
        why = "The vectors change none of the linear layers" if norms else "Every coefficient is 0"
        raise UsageError(f"{why}, so there is nothing for an adapter to hold.")
    factors = {name: result.factors for name, result in results.items()}
    return factors, None if max_rank is None else _account(max_rank, results, norms)


def _why_not(weights: Iterable[str], layers: LoraLayers, base: str) -> str:
    """Say why weights have no place in an adapter."""
    holders = layers.of_weights()
    refused = {
        layers.refused[name]
        for weight in weights
        if weight in holders and (name := name_of(holders[weight])) in layers.refused
    }
    if refused:
        return f"could not be loaded again: {'; '.join(sorted(refused))}"
    return f"are no layers of their own in {base}"


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


def vllm_rank(rank: int) -> int | None:
    """Return the --max-lora-rank of vLLM that has room for a rank; None where none has."""
    return next((size for size in VLLM_RANKS if size >= rank), None)


def _serving(rank: int) -> tuple[str, ...]:
    room = vllm_rank(rank)
    if room == rank:
        return ()
    if room is None:
        return (
            f"vLLM serves adapters of rank {VLLM_RANKS[-1]} at most, and this one has rank {rank}; "
            "bound it with --max-rank.",
        )
    return (f"vLLM has no rank {rank}; serve it with --max-lora-rank {room}.",)


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


def _parts(plan: OpenPlan, name: str) -> list[_Part]:
    found = []
    for term in plan.terms:
        eta = rounded_eta(eta_of(name, term.planned.eta, term.planned.rules))
        if eta and name in term.names:
            found.append((eta, term.vector))
    return found


def _factors(name: str, parts: Sequence[_Part], max_rank: int | None) -> Recompressed:
    thin = [
        vector.factors(name).scaled(eta)
        for eta, vector in parts
        if isinstance(vector, LowRankVector)
    ]
    if len(thin) == len(parts):
        whole = concatenate(thin)
        return Recompressed(whole, 0.0, 0.0) if max_rank is None else recompress(whole, max_rank)
    assert max_rank is not None  # as dense vectors need it
    return truncate(_dense(name, parts), max_rank)


def _dense(name: str, parts: Sequence[_Part]) -> torch.Tensor:
    (eta, vector), *others = parts
    total = vector.tensor(name) * eta
    for eta, vector in others:
        total += vector.tensor(name) * eta
    if not is_finite(total):
        raise VectorError(
            f"{name!r} overflows float32 in this composition. Use smaller coefficients."
        )
    return total


def _account(
    max_rank: int, results: dict[str, Recompressed], left_out: dict[str, float]
) -> Compression:
    lost = math.hypot(*(result.error for result in results.values()), *left_out.values())
    whole = math.hypot(*(result.norm for result in results.values()), *left_out.values())
    return Compression(
        max_rank,
        _relative(lost, whole),
        {name: _relative(result.error, result.norm) for name, result in results.items()},
        {name: _relative(norm**2, lost**2) for name, norm in left_out.items()},
    )


def _relative(part: float, whole: float) -> float:
    # Rounded to what the order of summation, which threads may change, leaves untouched.
    return float(f"{part / whole:.6g}") if whole else 0.0
