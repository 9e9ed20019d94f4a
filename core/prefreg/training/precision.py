"""What a run computes in: float32, or bfloat16 where that is asked for or measured to be faster."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import linear

from prefreg import launch
from prefreg.checkpoints import BaseModel
from prefreg.config import cache_folder
from prefreg.files import hash_bytes, write_whole
from prefreg.json_values import JsonFields
from prefreg.models.loading import load_config
from prefreg.training.resources import hardware
from prefreg.training.settings import Settings

_LARGE = 50_000_000
"""Parameters; the products of a smaller model are too short to be worth the rounding."""
_WORTH = 1.3
"""How many times as fast products must be: a step is not made of products alone."""
_TOKENS = 256
_SECONDS = 0.3
_FEWEST = 3
"""Times that each product is measured at least."""


@dataclass(frozen=True, slots=True)
class Precision(JsonFields):
    """What the poles and their reference are computed in."""

    compute: str
    """`float32`, `bfloat16` or `float16`."""
    weights: str
    """Of the base: bfloat16, or 4 bits (`nf4`), only beneath adapters, whose factors stay in
    float32. A step of whole weights is smaller than what those can tell apart, and would be lost.
    """
    gain: float | None = None
    """How many times as fast products are in bfloat16 as in float32; None where not measured."""
    asked: bool = False
    """Whether the user said so."""

    @property
    def dtype(self) -> torch.dtype:
        """Return that of the base's weights in memory."""
        half = self.weights == "bfloat16" or (self.four_bit and self.compute == "bfloat16")
        return torch.bfloat16 if half else torch.float32

    @property
    def four_bit(self) -> bool:
        """Whether the base lies in 4 bits beneath its adapters."""
        return self.weights == "nf4"

    def note(self) -> str | None:
        """Say what was measured, and what was taken for it; None where nothing was."""
        if self.gain is None:
            return None
        if self.gain >= 1:
            found = f"products take 1/{self.gain:.1f} of the time in bfloat16"
        else:
            found = f"products take {1 / self.gain:.1f} times as long in bfloat16"
        if self.asked:
            return f"Computing in bfloat16, as asked: here {found}."
        other = "bf16=false" if self.compute == "bfloat16" else "bf16=true"
        return f"Computing in {self.compute}: here {found} ({other} by --set decides otherwise)."


def choose_precision(
    settings: Settings, base: BaseModel, *, lora: bool, four_bit: bool = False
) -> tuple[Settings, Precision]:
    """Return what to compute in, and the settings with it.

    On a CPU, adapters on a large base take bfloat16 where its products are faster, unless the
    settings say.
    """
    launched = launch.current().precision
    if launched and not {"bf16", "fp16"} & settings.asked:
        settings = replace(settings, values={**settings.values, launched: True})
    values = settings.values
    asked = values.get("bf16")
    on_cpu = bool(values.get("use_cpu")) or not torch.accelerator.is_available()
    if values.get("fp16"):
        return settings, Precision("float16", "float32", asked=True)
    gain = None
    large = base.fingerprint.parameters >= _LARGE
    if on_cpu and (asked or (asked is None and lora and large)):
        gain = bf16_gain(base)
        if asked is None and gain >= _WORTH:
            settings = replace(settings, values={**values, "bf16": True})
    if not settings.values.get("bf16"):
        return settings, Precision("float32", "nf4" if four_bit else "float32", gain)
    weights = "nf4" if four_bit else "bfloat16" if lora else "float32"
    return settings, Precision("bfloat16", weights, gain, bool(asked))


def bf16_gain(base: BaseModel) -> float:
    """Measure how many times as fast bfloat16 is in a product of the base's size.

    It is kept in the cache, by machine and threads: as precise, the same bits.
    """
    hidden, inner = layer_sizes(base)
    key = hash_bytes(json.dumps([hardware(), torch.__version__, hidden, inner]).encode())
    file = cache_folder() / "precision" / key
    try:
        kept = float(file.read_text())
    except (OSError, ValueError):
        kept = 0.0
    if 0 < kept < float("inf"):
        return kept
    single, half = time_products(_TOKENS, hidden, inner, (torch.float32, torch.bfloat16))
    gain = float(f"{single / half:.3f}")
    with suppress(OSError):  # measured again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, str(gain))
    return gain


def layer_sizes(base: BaseModel) -> tuple[int, int]:
    """Return the hidden size of a base and the inner one of its feed-forward layers."""
    text: Any = load_config(base).get_text_config()
    hidden, inner = int(text.hidden_size), getattr(text, "intermediate_size", None)
    return hidden, int(inner) if isinstance(inner, int) else 4 * hidden


def time_products(
    rows: int, hidden: int, inner: int, kinds: Sequence[torch.dtype], device: str = "cpu"
) -> list[float]:
    """Return the seconds of a product of `rows` hidden vectors with a weight, in each dtype.

    They are timed in turn, and the quickest of each counts, as others may be at work; on a CPU by
    what one thread computes, which waits for nobody.
    """
    operands = [
        tuple(torch.ones(size, hidden, dtype=kind, device=device) for size in (rows, inner))
        for kind in kinds
    ]
    quickest = [float("inf")] * len(operands)
    clock = time.perf_counter if device == "cuda" else time.thread_time
    end, count, threads = time.perf_counter() + _SECONDS, 0, torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        while time.perf_counter() < end or count <= _FEWEST:
            for place, each in enumerate(operands):
                start = clock()
                linear(*each)
                if device == "cuda":
                    torch.cuda.synchronize()
                if count:  # the first ones make the kernels
                    quickest[place] = min(quickest[place], clock() - start)
            count += 1
    torch.set_num_threads(threads)
    return quickest
