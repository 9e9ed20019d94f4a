"""What a run would take in memory, time and disk, before any of it."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from prefreg.data.tokens import TokenPair
from prefreg.errors import TrainingError
from prefreg.models.loading import load_config, load_model, quiet
from prefreg.models.log_probs import answer_log_probs
from prefreg.models.prompt_rows import longest_answered, row_length, why_not_rows
from prefreg.registry import Access
from prefreg.training.add_axis import Note, prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import AxisRun
from prefreg.training.precision import layer_sizes, time_products
from prefreg.training.references import References
from prefreg.training.resources import (
    FreeMemory,
    MemoryNeed,
    check_memory,
    estimate_memory,
    free_memory,
)
from prefreg.training.resume import RESUME_BYTES
from prefreg.training.sample_answers import LONGEST

_SHORT = 64
"""Tokens of the row that is timed, where a pair is as short."""
_FORWARDS = 3
"""A step takes as long as three forward passes: measured of whole weights and of adapters."""
_ADAM_BYTES = 40
"""Read and written of a weight by a step of Adam, with its gradient's norm."""
_WATCHING = 1.1
"""Checks and answers on the way take a twentieth of the training each."""
_GENERATED = 64
"""A step of generation costs as much as a forward pass over this many tokens in large batches."""
UNCERTAINTY = 1.6
"""The time may be this many times as long, or as short: what is timed is a moment, and one row."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Expected seconds by stage."""

    loading: float
    reference: float
    pole: float
    """Of each pole that is trained."""
    scoring: float
    """Of each pole's report."""
    behaviour: float
    """Of the answers at the end."""


def _measure(run: AxisRun) -> Duration:
    """Time one short row and a few products, and scale what they took to the whole run.

    A token of a long batch costs less than one of a short row, by as much as its products do.
    """
    tokens, values = run.tokens, run.settings.values
    train = tokens.positive[tokens.train]
    start = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() and not values.get("use_cpu") else "cpu"
    # transformers' annotation of `to` leaves the model itself out.
    loaded = load_model(run.base, run.precision.dtype, four_bit=run.precision.four_bit)
    model: Any = loaded.to(device)  # type: ignore[arg-type, unused-ignore]
    loading = time.perf_counter() - start
    short = min(train, key=lambda pair: abs(row_length(pair) - _SHORT))
    length = row_length(short)
    scorer = References(run.base, run.precision.compute, rows=True)
    seconds = []
    with scorer.autocast(model):
        rows = why_not_rows(model, [short]) is None
        for _ in range(3):
            start = time.perf_counter()
            answer_log_probs(model, [short], rows=rows)
            seconds.append(time.perf_counter() - start)
    count = row_length if rows else _both
    batch = int(values["per_device_train_batch_size"])
    together = round(min(batch, len(train)) * fmean(map(count, train)))
    sizes, kinds = layer_sizes(run.base), (getattr(torch, run.precision.compute),)
    [alone] = time_products(length, *sizes, kinds, device)
    [many] = time_products(together, *sizes, kinds, device)
    token = min(seconds) / count(short) * min(1.0, (many / together) / (alone / length))

    passes = 1 if tokens.plainly_switched else 2
    steps, pairs = run.schedule.steps, run.schedule.pairs_per_step
    pole = steps * pairs * fmean(map(count, train)) * _FORWARDS * token
    if run.lora is None:
        pole += steps * run.base.fingerprint.parameters * _ADAM_BYTES * _seconds_a_byte(device)
    asked = run.guards.prompts if run.guards.watched else 0
    longest = max(map(longest_answered, train))
    return Duration(
        loading=loading,
        reference=token * (passes * sum(map(count, tokens.positive)) + 4 * longest),
        pole=pole * (_WATCHING if run.guards.watched else 1),
        scoring=token * sum(map(count, tokens.positive[tokens.report])),
        behaviour=3 * LONGEST * max(asked, _GENERATED) * token if asked else 0.0,
    )


def _both(pair: TokenPair) -> int:
    return 2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def _seconds_a_byte(device: str) -> float:
    """Time adding numbers: an optimiser does little else."""
    numbers = torch.ones(1 << 22, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        numbers.add_(numbers)[0].item()  # a GPU is waited for
        seconds.append(time.perf_counter() - start)
    return min(seconds) / (8 * len(numbers))


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
        return self.duration.reference + self.poles * each + self.duration.behaviour

    @property
    def seconds_between(self) -> tuple[float, float] | None:
        """Return how short and how long it may be."""
        if self.seconds is None:
            return None
        return self.seconds / UNCERTAINTY, self.seconds * UNCERTAINTY

    def to_json(self) -> dict[str, Any]:
        """Return the plan in a form that JSON can hold."""
        found = asdict(self)
        found["memory"]["total"] = self.memory.total
        found["seconds"] = self.seconds
        found["seconds_between"] = self.seconds_between
        return found


def plan_axis(access: Access, request: AxisRequest, note: Note | None = None) -> AxisPlan:
    """Read the data, count, and time a short row; nothing is trained or written."""
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
        need = estimate_memory(
            config,
            size,
            run.settings,
            tokens.max_length,
            trained,
            four_bit=run.precision.four_bit,
        )
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
