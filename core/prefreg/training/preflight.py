"""Whether memory and disk are enough, before anything is trained."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from prefreg.errors import TrainingError
from prefreg.training.settings import Settings

_GIB = 2**30
_WEIGHT_BYTES = 4
_TRAINED_BYTES = 12
"""A parameter's gradient and two moments of Adam, in float32."""
_COPIES_BYTES = 12
"""Float32 copies kept on the CPU: the base, the first pole and the second."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a run is expected to take at its peak."""

    model: int
    """The parameters with gradients and optimiser state, where training happens."""
    activations: int
    copies: int
    """Copies of the weights, in main memory."""

    @property
    def total(self) -> int:
        """All of it, where training happens in main memory."""
        return self.model + self.activations + self.copies


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Bytes that are free."""

    main: int
    gpu: int | None
    """None where there is no GPU."""


def estimate_memory(
    config: Any, parameters: int, settings: Settings, max_length: int, trained: int | None = None
) -> MemoryNeed:
    """Estimate what training a pole of this model takes, all of its weights or `trained` beside.

    Activations are those of a Llama block: about 16 hidden and 4 intermediate vectors a token
    and layer are kept for the backward pass, or one hidden vector with checkpointing.
    """
    values = settings.values
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    inner = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    tokens = 2 * int(values["per_device_train_batch_size"]) * max_length
    checkpointing = values.get("activation_checkpointing", values.get("gradient_checkpointing"))
    block = 4 * tokens * (16 * hidden + 4 * inner)
    layers = int(text.num_hidden_layers)
    activations = block + layers * 4 * tokens * hidden if checkpointing else layers * block
    weights = parameters if trained is None else parameters + trained
    moving = parameters if trained is None else trained
    return MemoryNeed(
        weights * _WEIGHT_BYTES + moving * _TRAINED_BYTES, activations, moving * _COPIES_BYTES
    )


def check_memory(need: MemoryNeed) -> None:
    """Refuse a run that memory is too small for.

    Raises:
        TrainingError: It needs more than is free; the message says what to lower.
    """
    free = free_memory()
    if free.gpu is not None:
        _compare(need.model + need.activations, free.gpu, "GPU memory", need.model)
        _compare(need.copies, free.main, "main memory", need.copies)
    else:
        _compare(need.total, free.main, "memory", need.model + need.copies)


def free_memory() -> FreeMemory:
    """Return the bytes that are free."""
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    return FreeMemory(psutil.virtual_memory().available, gpu)


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a run whose vector would not fit on the disk.

    Raises:
        TrainingError: The disk has fewer bytes free than needed.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"The vector needs {needed / _GIB:.1f} GiB in {folder}, where {free / _GIB:.1f} GiB "
            "are free: free some, or use another disk."
        )


def _compare(needed: int, free: int, kind: str, fixed: int) -> None:
    if needed <= free:
        return
    advice = (
        "the base is too large for this machine; use a smaller one or more memory"
        if fixed > free
        else "lower per_device_train_batch_size (and raise gradient_accumulation_steps as much), "
        "lower --max-length, or set activation_checkpointing=true"
    )
    raise TrainingError(
        f"Training needs about {needed / _GIB:.1f} GiB of {kind}, and {free / _GIB:.1f} GiB are "
        f"free: {advice}."
    )
