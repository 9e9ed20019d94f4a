"""What a run would take in memory, time and disk, before any of it."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from prefreg.data.tokens import TokenPair
from prefreg.errors import TrainingError
from prefreg.models.loading import load_config, load_model, quiet
from prefreg.models.log_probs import answer_log_probs
from prefreg.models.prompt_rows import longest_answered
from prefreg.registry import Access
from prefreg.training.add_axis import Note, prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import AxisRun
from prefreg.training.resources import (
    FreeMemory,
    MemoryNeed,
    check_memory,
    estimate_memory,
    free_memory,
)
from prefreg.training.resume import RESUME_BYTES
from prefreg.training.trainer import train_pole

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


def _measure(run: AxisRun) -> Duration:
    """Score a few pairs and train on a few batches, and scale what that took to the whole run.

    The sample is spread over the lengths that occur.
    """
    tokens, values = run.tokens, run.settings.values
    start = time.perf_counter()
    model = load_model(run.base)
    loading = time.perf_counter() - start
    batch = int(values["per_device_train_batch_size"])
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
        run.tokenizer,
        sample,
        answer_log_probs(model, sample),
        settings=replace(run.settings, values={**values, **once}),
        max_length=tokens.max_length,
        seed=0,
        lora=run.lora.config() if run.lora else None,
        progress=lambda *_: moments.append(time.perf_counter()),
    )
    between = [after - before for before, after in pairwise(moments)]
    micro = median(between) * (_tokens(train) / len(train)) / (_tokens(sample) / len(sample))
    passes = 1 if tokens.plainly_switched else 2
    return Duration(
        loading=loading,
        reference=passes * scoring * _tokens(tokens.positive),
        pole=run.schedule.steps * int(values["gradient_accumulation_steps"]) * micro,
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


_FACTORS = 2
"""φ in factors has those of both poles."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a set of pairs; a prompt is counted once, though both answers follow it."""

    pairs: int
    prompt: int
    chosen: int
    rejected: int
    longest: int
    """Of a prompt and its longer answer."""


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """What a run would take."""

    axis: str
    base: str
    source: str
    poles: int
    """How many are trained."""
    steps: int
    """Of each pole."""
    pairs_per_step: int
    max_length: int
    truncated: int
    dropped_long: int
    train: TokenCounts
    heldout: TokenCounts
    memory: MemoryNeed
    free: FreeMemory
    problem: str | None
    """What is too small, and what to do about it."""
    duration: Duration | None
    """None where memory is too small to measure it."""
    vector: int
    """Bytes of φ."""
    scratch: int
    """Bytes of what a run keeps in the cache until it is finished."""
    free_disk: int

    @property
    def seconds(self) -> float | None:
        """Return the expected time of everything."""
        if self.duration is None:
            return None
        each = self.duration.loading + self.duration.pole + self.duration.scoring
        return self.duration.reference + self.poles * each

    def to_json(self) -> dict[str, Any]:
        """Return the plan in a form that JSON can hold."""
        found = asdict(self)
        found["memory"]["total"] = self.memory.total
        found["seconds"] = self.seconds
        return found


def plan_axis(access: Access, request: AxisRequest, note: Note | None = None) -> AxisPlan:
    """Read the data, count, and measure a few steps that are thrown away; nothing is written."""
    run = prepare(access, request, note, few=True)
    size = run.base.fingerprint.parameters
    trained = run.lora.parameters if run.lora else None
    tokens = run.tokens
    train, heldout = tokens.positive[tokens.train], tokens.positive[tokens.train.stop :]
    problem, duration = None, None
    if note is not None:
        for sentence in run.notes():
            note(sentence)
    with quiet():
        config = load_config(run.base)
        need = estimate_memory(config, size, run.settings, tokens.max_length, trained)
        try:
            check_memory(need)
            duration = _measure(run)
        except TrainingError as error:
            problem = str(error)
    number = 2 if request.dtype == "bfloat16" else 4
    return AxisPlan(
        axis=run.axis.name,
        base=run.base.name,
        source=run.mixture.origin,
        poles=1 if run.existing else 2,
        steps=run.schedule.steps,
        pairs_per_step=run.schedule.pairs_per_step,
        max_length=tokens.max_length,
        truncated=tokens.audit.truncated,
        dropped_long=tokens.audit.dropped_long,
        train=_count(train),
        heldout=_count(heldout),
        memory=need,
        free=free_memory(),
        problem=problem,
        duration=duration,
        vector=number * (size if trained is None else _FACTORS * trained),
        scratch=RESUME_BYTES * (size if trained is None else trained),
        free_disk=shutil.disk_usage(Path(tempfile.gettempdir())).free,
    )


def _count(pairs: Sequence[TokenPair]) -> TokenCounts:
    return TokenCounts(
        pairs=len(pairs),
        prompt=sum(len(pair.prompt_ids) for pair in pairs),
        chosen=sum(len(pair.chosen_ids) for pair in pairs),
        rejected=sum(len(pair.rejected_ids) for pair in pairs),
        longest=max(map(longest_answered, pairs), default=0),
    )
