"""How many threads a small model's products are worth, found by a short measurement.

A second thread that hardly helps on an idle machine makes a busy one slow: every product waits for
it to be scheduled (the bundled model trained nine times as long under a load of 6 on two cores).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from transformers import PreTrainedModel

from prefreg.config import cache_folder
from prefreg.files import write_whole
from prefreg.models.ranks import current

_SMALL = 50_000_000
"""Parameters; the products of a larger model take all threads and need no measurement."""
_WORTH = 1.6
"""How much faster all threads must be than one. With two, the bundled model gains 1.4."""
_ROWS, _TOKENS = 16, 24
_SECONDS = 0.3

P = ParamSpec("P")
R = TypeVar("R")
_known: dict[Path, int] = {}


@contextmanager
def suited_threads(model: PreTrainedModel) -> Iterator[None]:
    """Compute with as many threads as suit a model; afterwards with as many as before.

    Who sets `OMP_NUM_THREADS`, gives torch one thread, or starts several processes has chosen.
    """
    before = torch.get_num_threads()
    chosen = _suited(model, before)
    if chosen == before:
        yield
        return
    torch.set_num_threads(chosen)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_suited_threads(
    function: Callable[Concatenate[PreTrainedModel, P], R],
) -> Callable[Concatenate[PreTrainedModel, P], R]:
    """Let a function of a model compute with as many threads as suit it."""

    @wraps(function)
    def wrapped(model: PreTrainedModel, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with suited_threads(model):
            return function(model, *args, **kwargs)

    return wrapped


def _suited(model: PreTrainedModel, most: int) -> int:
    if most == 1 or os.environ.get("OMP_NUM_THREADS") or current().world > 1:
        return most
    if model.device.type != "cpu" or model.num_parameters() > _SMALL:
        return most
    # Kept: as many threads, the same bits.
    what = [model.config.to_diff_dict(), torch.__version__, most, os.cpu_count()]
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
    file = cache_folder() / "threads" / key
    if file not in _known:
        _known[file] = _recall(file, most) or _measure(model, file, most)
    return _known[file]


def _recall(file: Path, most: int) -> int | None:
    try:
        kept = int(file.read_text())
    except (OSError, ValueError):
        return None
    return kept if kept in (1, most) else None


def _measure(model: PreTrainedModel, file: Path, most: int) -> int:
    """Time forward passes; the quickest counts, as others may be at work."""
    ids = torch.zeros((_ROWS, _TOKENS), dtype=torch.long)
    forward: Any = model
    quickest = dict.fromkeys((1, most), float("inf"))
    end = time.perf_counter() + _SECONDS
    try:
        with torch.inference_mode():
            # In turn, so that a busy moment hits both.
            while time.perf_counter() < end or float("inf") in quickest.values():
                for count in quickest:
                    torch.set_num_threads(count)
                    start = time.perf_counter()
                    forward(input_ids=ids)
                    quickest[count] = min(quickest[count], time.perf_counter() - start)
    finally:
        torch.set_num_threads(most)
    chosen = most if quickest[1] / quickest[most] >= _WORTH else 1
    with suppress(OSError):  # measured again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, str(chosen))
    return chosen
