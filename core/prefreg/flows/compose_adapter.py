"""Compose into an adapter: terms → versions and base → plan → one PEFT folder."""

from dataclasses import dataclass
from typing import Any

from prefreg.composition.adapter import ComposedAdapter, write_adapter
from prefreg.errors import UsageError
from prefreg.flows.access import Access
from prefreg.flows.compose import CompositionRequest, resolve_plan

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """An adapter that was written, and what to know about serving it."""

    written: ComposedAdapter
    base: str
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
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
