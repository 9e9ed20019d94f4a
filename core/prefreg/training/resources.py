"""Whether memory and disk are enough, before anything is trained."""

import os
import platform
import resource
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from prefreg.errors import TrainingError
from prefreg.files import human_size
from prefreg.models.ranks import ALONE, Ranks
from prefreg.training.settings import Settings

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

    gathered: int = 0
    """Of `model`, what is whole at a time where the rest lies in shards: the embeddings and a
    layer, with their gradients."""

    def of_each(self, shards: int) -> "MemoryNeed":
        """Return what each of several processes needs; they keep their poles on the disk."""
        if shards == 1:
            return replace(self, copies=self.copies // 3)
        model = self.model // shards + self.gathered
        return replace(self, model=model, copies=self.copies // 3 // shards)

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
    config: Any,
    parameters: int,
    settings: Settings,
    max_length: int,
    trained: int | None = None,
    *,
    four_bit: bool = False,
) -> MemoryNeed:
    """Estimate what training a pole of this model takes, all of its weights or `trained` beside.

    Activations are those of a Llama block: about 16 hidden and 4 intermediate vectors a token
    and layer are kept for the backward pass, or one hidden vector with checkpointing.
    """
    values = settings.values
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    if isinstance(inner, list | tuple):  # layer by layer, as in Gemma 3n
        inner = max(inner)
    tokens = 2 * int(values["per_device_train_batch_size"]) * max_length
    checkpointing = values.get("activation_checkpointing", values.get("gradient_checkpointing"))
    number = 2 if values.get("bf16") else 4
    block = number * tokens * (16 * hidden + 4 * inner)
    layers = int(text.num_hidden_layers)
    activations = block + layers * number * tokens * hidden if checkpointing else layers * block
    tables = hidden * int(text.vocab_size) * (1 if getattr(text, "tie_word_embeddings", 0) else 2)
    weights = parameters if trained is None else parameters + trained
    if four_bit:  # and one more for their constants; the tables stay in the dtype of products
        weights = (trained or 0) + tables + (parameters - tables) * 17 // 128
    moving = parameters if trained is None else trained
    at_once = min(parameters, tables + max(0, parameters - tables) // layers)
    return MemoryNeed(
        weights * _WEIGHT_BYTES + moving * _TRAINED_BYTES,
        activations,
        moving * _COPIES_BYTES,
        2 * at_once * _WEIGHT_BYTES,
    )


def check_memory(need: MemoryNeed, ranks: Ranks = ALONE) -> None:
    """Refuse a run that memory is too small for, in each of its processes."""
    free = free_memory()
    if ranks.world > 1:
        need = need.of_each(ranks.world if ranks.sharded else 1)
        here = 1 + max(ranks.gather(ranks.local_rank))  # they share the main memory
        least = min(ranks.gather(free.gpu or 0))
        free = FreeMemory(min(ranks.gather(free.main)) // here, least if free.gpu else None)
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
    """Refuse a run whose vector would not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"The vector needs {human_size(needed)} in {folder}, where {human_size(free)} "
            "are free: free some, or use another disk."
        )


def _compare(needed: int, free: int, kind: str, fixed: int) -> None:
    if needed <= free:
        return
    advice = (
        "the base is too large for this machine; use a smaller one or more memory"
        if fixed > free
        else "lower per_device_train_batch_size (a step keeps its pairs), lower --max-length, or "
        "set activation_checkpointing=true"
    )
    raise TrainingError(
        f"Training needs about {human_size(needed)} of {kind}, and {human_size(free)} are "
        f"free: {advice}."
    )


_PACKAGES = (
    "prefreg",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "peft",
)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # prefreg itself, run from a tree that is not installed
            continue
    return versions


def hardware() -> str:
    """Name the processor that trained, with the threads torch used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def peak_memory() -> dict[str, int]:
    """Return the peak bytes of the process (`main`) and of the GPU (`gpu`), where there is one."""
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"main": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peaks["gpu"] = torch.cuda.max_memory_allocated()
    return peaks


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        for line in cpus.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
