"""What happens between the steps of a training: the curve, checks of a pole, checkpoints.

A pole is checked on held-out pairs and by what it answers, and stopped where it collapses.
Checkpoints are saved by the clock, and checked before they are used.
"""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from transformers import PreTrainedModel, TrainerCallback

from prefreg.checkpoints.checkpoint import read_json_object
from prefreg.data.tokens import TokenPair
from prefreg.errors import GateError, PrefregError, TrainingError, reason
from prefreg.files import hash_file, write_whole
from prefreg.json_values import parse_json
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.models.ranks import current, is_lost, laid_out, own
from prefreg.progress import Steps
from prefreg.training.guards import Thresholds, compare
from prefreg.training.references import References
from prefreg.training.run_state import read_parts, write_like
from prefreg.training.sample_answers import SampledAnswers
from prefreg.training.settings import Settings

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One step of training."""

    step: int
    loss: float
    """In nats: of fine-tuning a learnt token, over the step's examples."""

    @classmethod
    def of(cls, step: int, logs: Mapping[str, Any]) -> "LossPoint":
        """Read a step of what the trainer logs."""
        return cls(step, float(logs["loss"]))


@dataclass(frozen=True, slots=True)
class CurvePoint(LossPoint):
    """One step of a pole."""

    margin: float | None
    """Mean reward margin of the step's pairs: β times the margin in nats. None where only the
    chosen answers are read."""
    grad_norm: float | None = None
    """Before it is clipped."""

    @classmethod
    def of(cls, step: int, logs: Mapping[str, Any]) -> "CurvePoint":
        """Read a step of what the trainer logs."""
        norm, margin = logs.get("grad_norm"), logs.get("rewards/margins")
        return cls(
            step,
            float(logs["loss"]),
            None if margin is None else float(margin),
            None if norm is None or not math.isfinite(norm) else float(norm),
        )


PointType = TypeVar("PointType", bound=LossPoint)


class CurveRecorder(TrainerCallback, Generic[PointType]):
    """Keep the curve, pass progress on and stop at a loss that is not finite."""

    def __init__(
        self,
        read: Callable[[int, Mapping[str, Any]], PointType],
        progress: Steps | None,
        checks: "PoleChecks | None" = None,
    ) -> None:
        """Read a point of every log; with `checks` a pole that was sound once is kept as it was."""
        self.curve: list[PointType] = []
        self._read = read
        self._progress = progress
        self._checks = checks

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up the curve of what was trained before, and say that the steps begin."""
        self.curve = [
            self._read(logs["step"], logs) for logs in state.log_history if "loss" in logs
        ]
        if self._progress:
            self._progress(int(state.global_step), int(state.max_steps), None)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Keep the step of a log."""
        if not logs or "loss" not in logs:
            return
        loss, step = float(logs["loss"]), int(state.global_step)
        if not math.isfinite(loss):
            if self._checks is not None and self._checks.seen:
                self._checks.halt(step, f"the loss is {loss}", control)
                return
            raise TrainingError(
                f"The loss is {loss} at step {step} of {state.max_steps}: lower learning_rate."
            )
        self.curve.append(self._read(step, logs))
        if self._progress:
            self._progress(step, int(state.max_steps), loss)


CHECKED_PAIRS = 32
"""Held-out pairs that are scored at a time: enough to tell a collapse, which is far off."""
_CHECK_SHARE = 0.05
"""Of the time of training, at most."""
_MOST_CHECKS = 20
"""A pole is not looked at more often than this."""
_THRESHOLDS = Thresholds()
_STATE, _GOOD = "watch.json", "good.safetensors"


@dataclass(frozen=True, slots=True)
class Check:
    """What a pole was like after a step, on some held-out pairs."""

    step: int
    accuracy: float
    margin: float
    """Mean change of log p(chosen) − log p(rejected), in nats."""
    chosen_change_per_token: float
    rejected_change_per_token: float


@dataclass(frozen=True, slots=True)
class Stop:
    """A pole that collapsed: when that was seen, what is kept of it, and what was seen."""

    step: int
    kept: int
    """The last step after which it was sound."""
    reason: str

    def __str__(self) -> str:
        return f"{self.reason} at step {self.step}; step {self.kept} is kept"


def check_interval(pairs: Sequence[TokenPair], *, work: float, steps: int) -> int:
    """Return every how many steps to look, so that it takes little of the time.

    `work` is what one step of training is worth, in tokens of a forward pass. The interval follows
    from counts of tokens, not from a clock, so that equal runs look at equal steps.
    """
    every = _tokens(pairs) / (_CHECK_SHARE * work)
    return max(1, math.ceil(every), math.ceil(steps / _MOST_CHECKS))


def step_work(train: Sequence[TokenPair], settings: Settings) -> float:
    """Return how many tokens a forward pass would have in the time of one step of training."""
    values = settings.values
    batch = int(values["per_device_train_batch_size"]) * int(values["gradient_accumulation_steps"])
    return 3 * batch * _tokens(train) / max(1, len(train))


class PoleChecks(TrainerCallback):
    """Looks at a pole every few steps, keeps its last sound weights, and stops a collapse."""

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[TokenPair],
        reference: PairLogProbs,
        *,
        interval: int,
        scorer: References,
        thresholds: Thresholds = _THRESHOLDS,
        answers: SampledAnswers | None = None,
    ) -> None:
        """Check `model` on pairs that it is not trained on, and by what it answers."""
        self.seen: list[Check] = []
        self.answers = answers
        self.stop: Stop | None = None
        self.seconds = 0.0
        self._model = model
        self._pairs = pairs
        self._reference = reference
        self._interval = interval
        self._scorer = scorer
        self._thresholds = thresholds
        self._good: dict[str, torch.Tensor] = {}
        self._sound = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Score the pairs and let the model answer, where it is time."""
        started = time.perf_counter()
        step = int(state.global_step)
        # After the last step the report of the pole is about all held-out pairs.
        scored = step % self._interval == 0 and step < int(state.max_steps)
        reason = self._score(step) if scored else None
        if reason is None and self.answers is not None and self.answers.is_due(step):
            with self._scorer.autocast(self._model):
                reason = self.answers.check(self._model, step)
        if reason is not None:
            self.halt(step, reason, control)
        elif scored:
            self._sound = step
            self._good = {
                name: own(parameter.detach()).to("cpu", copy=True)
                for name, parameter in self._model.named_parameters()
                if parameter.requires_grad
            }
        self.seconds += time.perf_counter() - started

    def _score(self, step: int) -> str | None:
        """Score the pairs; return in which way the pole collapsed, if it did."""
        with self._scorer.autocast(self._model):
            scores = answer_log_probs(self._model, self._pairs, rows=self._scorer.rows)
        report = compare(scores, self._reference)
        chosen, rejected = report.chosen_change_per_token, report.rejected_change_per_token
        self.seen.append(Check(step, report.accuracy, report.mean_margin, chosen, rejected))
        limits = self._thresholds
        for what, change, limit in (
            ("chosen", chosen, limits.chosen_drop_per_token),
            ("rejected", rejected, limits.rejected_drop_per_token),
        ):
            if not change >= -limit:
                return f"the {what} answers lost {-change:.2f} nats a token (limit {limit:g})"
        return None

    def halt(self, step: int, reason: str, control: Any) -> None:
        """Stop the training; the last sound weights are kept."""
        if not self._good:
            raise GateError(
                f"{reason} at step {step}, before anything sound was learnt. Lower learning_rate "
                "or raise beta; --no-watch with --keep-anyway trains on and keeps it."
            )
        self.stop = Stop(step, self._sound, reason)
        control.should_training_stop, control.should_save = True, False

    def restore(self) -> None:
        """Give the model its last sound weights back, where it was stopped."""
        if self.stop is None:
            return
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in self._good:
                    own(parameter).copy_(self._good[name])
        self._good = {}

    def save(self, folder: Path) -> None:
        """Keep what was seen so far beside a checkpoint of the trainer."""
        seen: dict[str, Any] = {"checks": [asdict(check) for check in self.seen]}
        if self.answers is not None:
            seen |= self.answers.to_json()
        if current().first:
            (folder / _STATE).write_text(json.dumps(seen))
        held = dict(self._model.named_parameters())
        good = {name: laid_out(held[name], part) for name, part in self._good.items()}
        write_like(folder / _GOOD, good)

    def load(self, folder: Path) -> None:
        """Take up what was seen before a checkpoint."""
        found = read_json_object(
            folder / _STATE, absent="no checkpoint", advice="Use --fresh.", error=TrainingError
        )
        self.seen = [Check(**check) for check in found["checks"]]
        if self.answers is not None:
            self.answers.load(found)
        # A pole that is not sound is stopped, not saved.
        self._sound = self.seen[-1].step if self.seen else 0
        self._good = read_parts(folder / _GOOD, self._model)


def _tokens(pairs: Sequence[TokenPair]) -> int:
    return sum(
        len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs
    )


SAVE_INTERVAL = 60.0
"""Seconds between two checkpoints, at least."""
_SAVE_SHARE = 20
"""Training lasts this many times as long as saving, so that it is not slowed noticeably."""
_MARK = "complete.json"


class Checkpoints(TrainerCallback):
    """Lets the trainer save now and then, keeps the newest whole checkpoint, and finds it again."""

    def __init__(self, folder: Path, *, checks: PoleChecks | None, note: Note | None) -> None:
        """Keep checkpoints below `folder`, with what the checks have seen."""
        self.folder = folder
        self.interrupted = False
        self._checks = checks
        self._note = note
        self._untried: Path | None = None
        self._pause = SAVE_INTERVAL
        self._last = self._began = time.monotonic()

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint; older, unfinished and damaged ones are removed."""
        checkpoint = self._untried = current().once(self._newest)
        if checkpoint is not None and self._checks is not None:
            self._checks.load(checkpoint)
        return checkpoint

    def _newest(self) -> Path | None:
        found = sorted(self.folder.glob("checkpoint-*"), key=_step, reverse=True)
        for place, checkpoint in enumerate(found):
            if self._is_whole(checkpoint):
                for older in found[place + 1 :]:
                    shutil.rmtree(older, ignore_errors=True)
                return checkpoint
            shutil.rmtree(checkpoint, ignore_errors=True)
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint where one is due, or somebody wants to stop."""
        self._untried = None
        ranks = current()
        due, self.interrupted = ranks.any(
            [time.monotonic() - self._last >= self._pause, self.interrupted or ranks.ending]
        )
        if self.interrupted:
            control.should_training_stop = True
        if (due or self.interrupted) and not (self._checks and self._checks.stop):
            control.should_save = int(state.global_step) < int(state.max_steps)
            self._began = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole, then remove the one before."""
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        if self._checks is not None:
            self._checks.save(checkpoint)
        current().once(lambda: self._mark(checkpoint))
        self._last = time.monotonic()
        self._pause = max(SAVE_INTERVAL, _SAVE_SHARE * (self._last - self._began))

    def _mark(self, checkpoint: Path) -> None:
        sums = {path.name: hash_file(path) for path in sorted(checkpoint.iterdir())}
        write_whole(checkpoint / _MARK, json.dumps(sums))
        for other in self.folder.glob("checkpoint-*"):
            if other != checkpoint:
                shutil.rmtree(other, ignore_errors=True)

    @contextmanager
    def resuming(self) -> Iterator[None]:
        """Say so where a whole checkpoint turns out to be none before its first step is done."""
        try:
            yield
        except (PrefregError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the trainer makes of its files
            if self._untried is None or is_lost(error):
                raise
            # Further sentences are advice for other callers: torch's, to run what is in a pickle.
            said = reason(error).partition(". ")[0]
            raise TrainingError(
                f"The checkpoint {self._untried} cannot be resumed: {said}; --fresh starts over."
            ) from error

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C end the step and save; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _is_whole(self, checkpoint: Path) -> bool:
        try:
            sums = parse_json((checkpoint / _MARK).read_bytes())
        except FileNotFoundError:
            return False  # the process was ended while it was written
        except (OSError, ValueError):
            sums = None
        try:
            whole = bool(sums) and all(hash_file(checkpoint / name) == sums[name] for name in sums)
        except (OSError, TypeError):
            whole = False
        if not whole and self._note is not None:
            self._note(
                f"The checkpoint of step {_step(checkpoint)} in {self.folder} is damaged, so it is "
                "not used: the pole goes on from an earlier one, or from the base."
            )
        return whole


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
