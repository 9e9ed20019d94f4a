"""How long a pole is trained: steps, the pairs of each, and how far they can carry it."""

import math
from dataclasses import dataclass

from prefreg.training.settings import ACCUMULATED, BATCH, LEARNING_RATE_FACTOR, PRESETS, Settings

_MOST = 10
"""Passes over the pairs; the paper makes two."""
_LEAST = 5e-5
"""A sixth of what the paper's 312 steps at 1e-6 sum up to. After a fifteenth, 20 such steps, no
answer of the bundled model had changed."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps that a pole takes."""

    steps: int
    pairs_per_step: int
    pairs: int
    """That there are to train on."""
    learning_rate: float
    lora: bool = False

    @classmethod
    def of(cls, pairs: int, settings: Settings, *, lora: bool = False) -> "Schedule":
        """Count as the trainer does."""
        values = settings.values
        each = int(values[BATCH]) * int(values[ACCUMULATED])
        rate = float(values["learning_rate"])
        return cls(count_steps(pairs, settings), each, pairs, rate, lora)

    @property
    def passes(self) -> float:
        """How often each pair is seen."""
        return self.steps * self.pairs_per_step / self.pairs

    @property
    def reach(self) -> float:
        """The sum of the learning rate over the steps: Adam moves no weight much further."""
        return self.steps * self.learning_rate

    def __str__(self) -> str:
        seen = self.steps * self.pairs_per_step
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        passes = f"{self.passes:.1f} passes over {self.pairs:,}"
        return f"{steps} of {self.pairs_per_step:,} pairs, {seen:,} pairs, {passes}"

    def warning(self) -> str | None:
        """Say that a pole will hardly move, or will learn its few pairs by heart."""
        if self.passes > _MOST:
            fewer = max(1, round(_MOST / 2 * self.pairs / self.pairs_per_step))
            return (
                f"Each of the {self.pairs:,} pairs comes {self.passes:.0f} times: a pole may learn "
                f"them by heart, or collapse. --set max_steps={fewer} makes 5 passes."
            )
        factor = LEARNING_RATE_FACTOR if self.lora else 1
        if self.reach >= factor * _LEAST:
            return None
        quick = PRESETS["quick"]
        other = factor * quick["max_steps"] * quick["learning_rate"]
        return (
            f"{self.steps} steps at a learning rate of {self.learning_rate:g} move a weight by "
            f"{self.reach:.0e} at most: too little to change what the model says. --preset quick "
            f"({other:.0e}), more pairs, or a higher learning_rate or max_steps by --set do."
        )


def count_steps(pairs: int, settings: Settings) -> int:
    """Return how many optimiser steps a pole takes, as the trainer counts them."""
    values = settings.values
    if int(values.get("max_steps", -1)) > 0:
        return int(values["max_steps"])
    batches = math.ceil(pairs / int(values[BATCH]))
    a_epoch = max(1, math.ceil(batches / int(values[ACCUMULATED])))
    return math.ceil(float(values["num_train_epochs"]) * a_epoch)
