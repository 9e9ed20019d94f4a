"""How long a run takes, from a few steps that are really made and thrown away."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from prefreg.data.tokens import TokenPair
from prefreg.scoring.log_probs import answer_log_probs
from prefreg.training.lora import Lora
from prefreg.training.settings import Settings
from prefreg.training.tokenising import TokenisedPairs
from prefreg.training.trainer import train_pole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_STEPS = 4
"""The first one warms caches up and is not counted."""
_SCORED = 16
"""Pairs scored at most, to measure the reference pass."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Expected seconds by stage."""

    loading: float
    reference: float
    pole: float
    """Of each pole that is trained."""
    scoring: float
    """Of each pole's report."""


def count_steps(pairs: int, settings: Settings) -> int:
    """Return how many optimiser steps a pole takes, as the trainer counts them."""
    values = settings.values
    if int(values.get("max_steps", -1)) > 0:
        return int(values["max_steps"])
    batches = math.ceil(pairs / int(values["per_device_train_batch_size"]))
    a_epoch = max(1, math.ceil(batches / int(values["gradient_accumulation_steps"])))
    return math.ceil(float(values["num_train_epochs"]) * a_epoch)


def measure_duration(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tokens: TokenisedPairs,
    *,
    settings: Settings,
    steps: int,
    references: int,
    loading: float,
    lora: Lora | None = None,
) -> Duration:
    """Score a few pairs and train on a few batches, and scale what that took to the whole run.

    The sample is spread over the lengths that occur. `references` is the number of reference
    passes; the model is changed.

    Raises:
        TrainingError: Memory ran out.
    """
    batch = int(settings.values["per_device_train_batch_size"])
    train = tokens.positive[tokens.train]
    sample = _spread(train, _SCORED)
    answer_log_probs(model, sample[:1])
    start = time.perf_counter()
    answer_log_probs(model, sample)
    scoring = (time.perf_counter() - start) / _tokens(sample)

    sample = _spread(train, batch * _STEPS)
    once = {"gradient_accumulation_steps": 1, "max_steps": _STEPS}
    moments: list[float] = []
    train_pole(
        model,
        tokenizer,
        sample,
        answer_log_probs(model, sample),
        settings=replace(settings, values={**settings.values, **once}),
        max_length=tokens.max_length,
        seed=0,
        lora=lora.config() if lora else None,
        progress=lambda step, total, loss: moments.append(time.perf_counter()),
    )
    between = [after - before for before, after in pairwise(moments)]
    micro = median(between) * (_tokens(train) / len(train)) / (_tokens(sample) / len(sample))
    return Duration(
        loading=loading,
        reference=references * scoring * _tokens(tokens.positive),
        pole=steps * int(settings.values["gradient_accumulation_steps"]) * micro,
        scoring=scoring * _tokens(tokens.positive[tokens.report]),
    )


def _spread(pairs: Sequence[TokenPair], count: int) -> list[TokenPair]:
    """Choose pairs evenly from the shortest to the longest; all of them where they are few."""
    ordered = sorted(pairs, key=lambda pair: _tokens([pair]))
    if len(ordered) <= count:
        return ordered
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]


def _tokens(pairs: Sequence[TokenPair]) -> int:
    return sum(
        2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs
    )
