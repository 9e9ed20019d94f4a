"""Guards while a pole is trained: held-out pairs, answers, and a stop where it collapses."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from prefreg.checkpoints.checkpoint import read_json_object
from prefreg.data.tokens import TokenPair
from prefreg.errors import GateError, TrainingError
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.training.guards import Thresholds
from prefreg.training.pole_report import compare
from prefreg.training.references import References
from prefreg.training.sample_answers import Interview
from prefreg.training.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAIRS = 32
"""Held-out pairs that are scored at a time: enough to tell a collapse, which is far off."""
_SHARE = 0.05
"""Of the time of training, at most."""
_CHECKS = 20
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
    every = _tokens(pairs) / (_SHARE * work)
    return max(1, math.ceil(every), math.ceil(steps / _CHECKS))


def step_work(train: Sequence[TokenPair], settings: Settings) -> float:
    """Return how many tokens a forward pass would have in the time of one step of training."""
    values = settings.values
    batch = int(values["per_device_train_batch_size"]) * int(values["gradient_accumulation_steps"])
    return 3 * batch * _tokens(train) / max(1, len(train))


class Watch(TrainerCallback):
    """Looks at a pole every few steps, keeps its last sound weights, and stops a collapse."""

    def __init__(
        self,
        model: "PreTrainedModel",
        pairs: Sequence[TokenPair],
        reference: PairLogProbs,
        *,
        interval: int,
        scorer: References,
        thresholds: Thresholds = _THRESHOLDS,
        interview: Interview | None = None,
    ) -> None:
        """Watch `model` on pairs that it is not trained on, and on what it answers."""
        self.checks: list[Check] = []
        self.interview = interview
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
        if reason is None and self.interview is not None and self.interview.is_due(step):
            with self._scorer.autocast(self._model):
                reason = self.interview.ask(self._model, step)
        if reason is not None:
            self.halt(step, reason, control)
        elif scored:
            self._sound = step
            self._good = {
                name: parameter.detach().to("cpu", copy=True)
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
        self.checks.append(Check(step, report.accuracy, report.mean_margin, chosen, rejected))
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
                    parameter.copy_(self._good[name])
        self._good = {}

    def save(self, folder: Path) -> None:
        """Keep what was seen so far beside a checkpoint of the trainer."""
        seen: dict[str, Any] = {"checks": [asdict(check) for check in self.checks]}
        if self.interview is not None:
            seen |= self.interview.to_json()
        (folder / _STATE).write_text(json.dumps(seen))
        save_file(self._good, folder / _GOOD)

    def load(self, folder: Path) -> None:
        """Take up what was seen before a checkpoint."""
        found = read_json_object(
            folder / _STATE, absent="no checkpoint", advice="Use --fresh.", error=TrainingError
        )
        self.checks = [Check(**check) for check in found["checks"]]
        if self.interview is not None:
            self.interview.load(found)
        # A pole that is not sound is stopped, not saved.
        self._sound = self.checks[-1].step if self.checks else 0
        self._good = load_file(folder / _GOOD)


def _tokens(pairs: Sequence[TokenPair]) -> int:
    return sum(
        len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs
    )
