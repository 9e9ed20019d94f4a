"""Batched answers and a sweep, on the GPU or on the CPU: tokens a second, seconds."""

import os
from pathlib import Path
from typing import Any

import torch

import prefreg
from gpu_parts.inputs import DEVICE, make_model, make_pairs, make_registry, seconds
from prefreg.checkpoints import resolve_base
from prefreg.models.generation import generate, generation_config
from prefreg.models.loading import load_tokenizer, quiet

BATCHES = {"cuda": (128, 128), "cpu": (8, 16)}
"""Prompts and the tokens of each answer, by device."""
SMALL_BATCH = (4, 4)
GRID = ["helpful=-1,0,1", "harmless=0,1"]


def measure(record: Any, part: str, folder: Path, *, small: bool) -> None:
    """Answer and sweep on the device that the process sees."""
    answer(record, DEVICE, small=small)
    registry = prefreg.open(
        make_registry(folder, resolve_base("pocket"), ["helpful", "harmless"]), starter=False
    )
    grid, prompts = GRID[: 1 if small else 2], 8 if small else 200
    os.environ["PREFREG_CACHE"] = str(folder / "cache")  # nothing was measured before
    taken = seconds(lambda: registry.sweep(grid, folder / "sweep", prompts=prompts))
    record.add("sweep", base="pocket", device=DEVICE, grid=grid, seconds=taken)


def answer(record: Any, device: str, *, small: bool) -> None:
    """Answer random prompts of a model in bfloat16."""
    shape = "small" if small else "Llama-3.2-1B"
    count, length = SMALL_BATCH if small else BATCHES[device]
    model = make_model(shape, torch.bfloat16).to(device)
    tokenizer = load_tokenizer(resolve_base("pocket"))
    config = generation_config(model, tokenizer, max_new_tokens=length, temperature=1.0)
    prompts = [pair.prompt_ids for pair in make_pairs(count, 400, 256)]
    found: list[list[int]] = []

    def work(seed: int) -> None:
        with quiet(), torch.inference_mode():
            found[:] = generate(model, prompts, config, seed=seed)

    first = seconds(lambda: work(0))
    again = seconds(lambda: work(1))
    tokens = sum(map(len, found))
    record.add(
        "answers",
        shape=shape,
        device=device,
        prompts=count,
        tokens=tokens,
        first_seconds=first,
        seconds=again,
        tokens_a_second=tokens / again,
    )
