"""Checkpoints that differ from the bundled model."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prefreg import pocket


def disturbed(folder: Path, size: float) -> Path:
    """Add noise to every weight of a checkpoint, in place; the bundled model, if none is there."""
    if not folder.exists():
        shutil.copytree(pocket.model_dir(), folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    generator = torch.Generator().manual_seed(0)
    for each in weights.values():
        each += size * torch.randn(each.shape, generator=generator)
    save_file(weights, file, {"format": "pt"})
    return folder


def renumbered(folder: Path) -> Path:
    """Write the bundled model with its hidden units in another order: the same, in another basin.

    Every answer stays as likely as it was, and no direction in the weights means what it meant.
    """
    shutil.copytree(pocket.model_dir(), folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    width = weights["model.norm.weight"].shape[0]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    for name, each in weights.items():
        written = name.endswith(("o_proj.weight", "down_proj.weight"))
        weights[name] = (each[order] if each.ndim == 1 or written else each[:, order]).contiguous()
    save_file(weights, file, {"format": "pt"})
    return folder
