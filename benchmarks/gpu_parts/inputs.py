"""Models, registries and pairs of random content, from seeds."""

import gc
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from compose import noise, write_noise
from transformers import AutoModelForCausalLM, LlamaConfig

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.tensor_names import weight_shapes
from prefreg.composition.resolve import identify
from prefreg.data.tokens import TokenPair
from prefreg.models.loading import quiet
from prefreg.registry import Access
from prefreg.registry.records import NewVersion
from prefreg.vectors.stored import metadata_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 438,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-3B": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
}
PHI_SCALE = 1e-3


def make_model(shape: str, dtype: torch.dtype, **changes: int) -> Any:
    """Make a model of random bfloat16 numbers on the device, the same ones each time."""
    config = LlamaConfig(max_position_embeddings=1024, **SHAPES[shape] | changes)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.to(dtype)


def make_base(folder: Path, shape: str) -> BaseModel:
    """Write a random base in bfloat16, and open it."""
    with quiet():
        make_model(shape, torch.bfloat16).save_pretrained(folder)
    return resolve_base(str(folder))


def write_phi(shapes: dict[str, tuple[int, ...]], file: Path, seed: int) -> Path:
    """Write a dense bfloat16 vector of weights that repeats a pool of random numbers."""
    write_noise(file, shapes, metadata_of("dense"), noise(seed, PHI_SCALE))
    return file


def make_registry(folder: Path, base: BaseModel, axes: Sequence[str]) -> Path:
    """Make a registry with a random version of every axis."""
    place = folder / "registry.db"
    with Access(place).writing() as store:
        for seed, axis in enumerate(axes, 1):
            shapes = dict(weight_shapes(base.checkpoint))
            file = write_phi(shapes, folder / "phi.safetensors", seed)
            store.add(NewVersion(axis, (), "dense", "BF16", identify(base)), file)
            file.unlink()
    return place


def make_pairs(count: int, vocabulary: int, longest: int = 512) -> tuple[TokenPair, ...]:
    """Make pairs with the lengths of whole dialogues of hh-rlhf, and tokens as rare as words.

    Logarithms of lengths are normal: prompts of about 70 tokens, some of hundreds, and answers of
    about 35.
    """
    draw = numpy.random.default_rng(0)
    ranks = 1 / numpy.arange(1, vocabulary - 9)

    def text(mean: float, deviation: float, most: int) -> "array[int]":
        length = int(numpy.clip(numpy.exp(draw.normal(mean, deviation)), 4, most))
        return array("i", (10 + draw.choice(len(ranks), length, p=ranks / ranks.sum())).tolist())

    return tuple(
        TokenPair(
            text(4.2, 1.1, longest * 2 // 3),
            text(3.5, 0.9, longest // 3),
            text(3.6, 0.9, longest // 3),
        )
        for _ in range(count)
    )


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, to its end on the GPU too."""
    finish()
    began = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - began


def free() -> None:
    """Give back what nothing refers to any more, to the GPU too."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def finish() -> None:
    """Wait until the GPU has nothing more to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
