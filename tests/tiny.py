"""Tiny real models and vectors that several rooms' tests are made of."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.tensor_names import weight_shapes
from prefreg.composition.engine import add_up, require_finite
from prefreg.composition.layout import output_dtype
from prefreg.composition.plan import Plan, opened
from prefreg.registry.records import BaseRecord, VersionRecord
from prefreg.vectors.dense import write_dense
from prefreg.vectors.stored import parse_dtype
from prefreg.vectors.tensors import TORCH_DTYPES, MemoryTensors, read_tensor

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def llama(*, tied: bool, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """Make a random Llama of 11 thousand parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).to(dtype)


def gpt2(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """Make a random GPT-2, whose embeddings are tied."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=64,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).to(dtype)


def save(model: PreTrainedModel, folder: Path, *, max_shard_size: str = "5GB") -> Path:
    """Save a model with the small files that a tokenizer would leave beside it."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "tokenizer.json").write_text('{"version": "1.0",   "model": {}}\n')
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "special_tokens_map.json").write_text("{}")
    return folder


def perturbed(model: PreTrainedModel, *, scale: float, seed: int) -> PreTrainedModel:
    """Move every parameter by noise, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.add_(noise.to(parameter.dtype))
    return model


def random_phi(base: BaseModel, *, seed: int, scale: float = 1e-2) -> dict[str, torch.Tensor]:
    """Make a difference for every weight of a base, under its names on disk."""
    generator = torch.Generator().manual_seed(seed)
    shapes = weight_shapes(base.checkpoint)
    return {name: torch.randn(shapes[name], generator=generator) * scale for name in sorted(shapes)}


def record(axis: str, base: BaseModel, *, number: int = 1, **changes: Any) -> VersionRecord:
    """Make the record of a version that belongs to a base."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = base.fingerprint
    identity = BaseRecord(
        name=base.name,
        revision=base.revision,
        path=str(base.path),
        weights=found.weights,
        tokenizer=found.tokenizer,
        template=found.template,
        parameters=found.parameters,
        dtype=found.dtype,
        created=now,
    )
    fields: dict[str, Any] = {
        "axis": axis,
        "number": number,
        "axis_aliases": (),
        "aliases": (),
        "kind": "dense",
        "dtype": "F32",
        "sha256": f"{number:064x}",
        "size": 0,
        "base": identity,
        "note": None,
        "metadata": {},
        "created": now,
        "measurements": (),
    }
    return VersionRecord(**{**fields, **changes})


def store(phi: Mapping[str, torch.Tensor], path: Path, *, dtype: str = "F32") -> Path:
    """Write a difference as a vector's file."""
    write_dense(MemoryTensors(phi), path, dtype=dtype)
    return path


def in_base(make: Callable[[], PreTrainedModel], folder: Path) -> BaseModel:
    """Save a model and open it as a base."""
    return resolve_base(str(save(make(), folder)))


def compose_state(plan: Plan, *, dtype: str | None = None) -> dict[str, torch.Tensor]:
    """Return every tensor of a composition by its on-disk name, in `dtype` or the base's own."""
    wanted = parse_dtype(dtype) if dtype else None
    state = {}
    with opened(plan) as open_plan:
        for name, stored in plan.base.checkpoint.tensors.items():
            terms = open_plan.terms_of(stored)
            base = read_tensor(stored)
            addends: list[torch.Tensor] = []
            if terms:
                phis = [term.block(0, stored.spec.elements) for term in terms]
                combine = open_plan.combine(stored, terms)
                addends = [part.reshape(base.shape) for part in combine(0, phis)]
            state[name] = add_up(base, addends, TORCH_DTYPES[output_dtype(stored, wanted)])
            if terms:
                require_finite(name, state[name], base)
    return state
