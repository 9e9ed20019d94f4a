"""One pole of a pair: trained, taken up again, or taken as it is given, and then judged."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.pairs import PairSet, switch_pairs
from prefreg.errors import GateError, TrainingError
from prefreg.models.loading import load_model
from prefreg.models.log_probs import answer_log_probs
from prefreg.progress import Progress, steps_of
from prefreg.training.batches import Shortcuts, choose_shortcuts
from prefreg.training.existing_pole import GivenPole, Pole
from prefreg.training.guards import Failure, Guards, check_pole
from prefreg.training.lora import Lora
from prefreg.training.pole_checkpoints import Checkpoints
from prefreg.training.pole_checks import PAIRS, Check, Stop, Watch, check_interval, step_work
from prefreg.training.pole_report import PoleReport, compare
from prefreg.training.references import Reference, References
from prefreg.training.resume import Scratch
from prefreg.training.sample_answers import (
    Interview,
    Questions,
    Sample,
    Warned,
    choose_questions,
    choose_steps,
    read_lesson,
)
from prefreg.training.settings import Settings, count_steps
from prefreg.training.tokenising import TokenisedPairs
from prefreg.training.trainer import CurvePoint, dpo_config, train_pole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.dpo_config import DPOConfig

Weights = dict[str, torch.Tensor]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainedPole:
    """One pole: its weights, how it got there and what it learnt."""

    weights: Weights
    """Trained parameters by their names in memory, float32 on the CPU, tied ones once."""
    report: PoleReport
    curve: list[CurvePoint]
    failures: tuple[Failure, ...]
    """Thresholds that it missed, and is kept all the same."""
    checks: list[Check] = field(default_factory=list)
    """What it was like on the way."""
    stop: Stop | None = None
    """Why it was stopped early, where it was."""
    answers: list[Sample] = field(default_factory=list)
    """What it answered on the way; the first are the base's."""
    warnings: list[Warned] = field(default_factory=list)
    given: GivenPole | None = None
    """The checkpoint that it is, where it was not trained here."""


@dataclass(slots=True)
class PoleMaker:
    """What every stage of one run needs, and the time that each took."""

    base: BaseModel
    axis: Axis
    settings: Settings
    seed: int
    lora: Lora | None
    pairs: PairSet
    tokens: TokenisedPairs
    tokenizer: "PreTrainedTokenizerBase"
    guards: Guards
    progress: Progress | None
    note: Note | None
    seconds: dict[str, float] = field(default_factory=dict)
    original: Weights = field(default_factory=dict)
    """The base's weights; empty with LoRA, which leaves them alone."""
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    references: dict[Pole, Reference] = field(default_factory=dict)
    scratch: Scratch | None = None
    opening: tuple[Questions, Sample] | None = None
    """What the poles are asked on the way, and what the base answered."""

    def load(self) -> "PreTrainedModel":
        """Load the base to where it is trained."""
        with self._timed("loading"):
            return self._place(load_model(self.base))

    def prepare(self, model: "PreTrainedModel") -> None:
        """Find out which shortcuts are exact for either pole, and keep the base's weights."""
        self.original = {} if self.lora else trained_weights(model)
        with self._timed("reference"):
            pairs = (*self.tokens.positive, *self.tokens.negative)
            self.shortcuts = choose_shortcuts(model, pairs, self._config())

    def score_reference(self, model: "PreTrainedModel") -> None:
        """Score the base once; where the switch is the plain one, that serves both poles."""
        scorer = self._scorer()
        with self._timed("reference"):
            positive = scorer.score(
                model, self.tokens.positive, steps_of(self.progress, "reference")
            )
            if self.tokens.plainly_switched:
                negative = positive.switched()
            else:
                steps = steps_of(self.progress, "reference of negative")
                negative = scorer.score(model, self.tokens.negative, steps)
        self.references = {"positive": positive, "negative": negative}

    def make(
        self, pole: Pole, given: GivenPole | None, model: "PreTrainedModel | None"
    ) -> TrainedPole:
        """Take a pole as it is given, or as an earlier process finished it, or train it.

        `model` is the base, if it is loaded and nothing was trained on it yet.
        """
        if given is not None and given.pole == pole:
            return self._take(given)
        kept = self.scratch.recall(pole) if self.scratch else None
        if kept is not None:
            return self._recall(pole, *kept)
        made = self._train(pole, model if model is not None else self.load())
        if self.scratch is not None:
            facts = {
                "report": asdict(made.report),
                "curve": [asdict(point) for point in made.curve],
                "checks": [asdict(check) for check in made.checks],
                "stop": asdict(made.stop) if made.stop else None,
                "answers": [asdict(sample) for sample in made.answers],
                "warnings": [asdict(warned) for warned in made.warnings],
            }
            self.scratch.keep(pole, made.weights, facts)
        return made

    def _train(self, pole: Pole, model: "PreTrainedModel") -> TrainedPole:
        pairs, reference = self._pairs(pole), self.references[pole].trained
        watch = self._watch(pole, model) if self.guards.watched else None
        checkpoints = None
        if self.scratch is not None:
            checkpoints = Checkpoints(self.scratch.steps(pole), watch=watch, note=self.note)
        with self._timed(pole):
            try:
                curve = train_pole(
                    model,
                    self.tokenizer,
                    pairs[self.tokens.train],
                    reference[self.tokens.train],
                    settings=self.settings,
                    max_length=self.tokens.max_length,
                    seed=self.seed,
                    lora=self.lora.config() if self.lora else None,
                    shortcuts=self.shortcuts,
                    watch=watch,
                    checkpoints=checkpoints,
                    progress=steps_of(self.progress, pole),
                )
            except TrainingError as error:
                raise TrainingError(f"Axis {self.axis.name!r}, {pole} pole: {error}") from error
            except GateError as error:
                named = f"Axis {self.axis.name!r} is not kept: {pole} pole: {error}"
                raise GateError(named) from error
        made = self._judge(pole, model, curve)
        if watch is None:
            return made
        self.seconds["watching"] = self.seconds.get("watching", 0.0) + watch.seconds
        if watch.stop is not None and self.note is not None:
            self.note(f"The {pole} pole was stopped: {watch.stop}.")
        made = replace(made, checks=watch.checks, stop=watch.stop)
        if watch.interview is None:
            return made
        if self.note is not None:
            for warned in watch.interview.warnings:
                self.note(f"The {pole} pole at step {warned.step}: {warned.reason}.")
        return replace(made, answers=watch.interview.samples, warnings=watch.interview.warnings)

    def _recall(self, pole: Pole, weights: Weights, facts: dict[str, Any]) -> TrainedPole:
        report = PoleReport(**facts["report"])
        if self.note is not None:
            self.note(f"Going on with an earlier run, which had finished the {pole} pole.")
        return TrainedPole(
            weights,
            report,
            [CurvePoint(**point) for point in facts["curve"]],
            check_pole(pole, report, weights, self._before(weights), self.guards.thresholds),
            [Check(**check) for check in facts["checks"]],
            Stop(**facts["stop"]) if facts["stop"] else None,
            [Sample(**sample) for sample in facts["answers"]],
            [Warned(**warned) for warned in facts["warnings"]],
        )

    def _take(self, given: GivenPole) -> TrainedPole:
        """Let a checkpoint stand for a pole, under the same guards."""
        with self._timed("loading"):
            model = self._place(given.load())
        judged = self._judge(given.pole, model, [])
        return replace(judged, failures=given.excuse(judged.failures), given=given)

    def _judge(self, pole: Pole, model: "PreTrainedModel", curve: list[CurvePoint]) -> TrainedPole:
        report, reference = self.tokens.report, self.references[pole].whole
        scorer = self._scorer()
        with self._timed("scoring"), scorer.autocast(model):
            steps = steps_of(self.progress, f"scoring {pole}")
            pairs = self._pairs(pole)[report]
            scores = answer_log_probs(model, pairs, rows=scorer.rows, progress=steps)
        found = compare(scores, reference[report], split=self.tokens.split)
        weights = trained_weights(model)
        failures = check_pole(pole, found, weights, self._before(weights), self.guards.thresholds)
        return TrainedPole(weights, found, curve, failures)

    def _watch(self, pole: Pole, model: "PreTrainedModel") -> Watch | None:
        """Watch the first of the held-out pairs; without any there is nothing to watch."""
        if self.tokens.split != "heldout":
            return None
        begin = self.tokens.report.start
        part = slice(begin, min(begin + PAIRS, self.tokens.report.stop))
        pairs = self._pairs(pole)
        train = pairs[self.tokens.train]
        steps, work = count_steps(len(train), self.settings), step_work(train, self.settings)
        interval = check_interval(pairs[part], work=work, steps=steps)
        return Watch(
            model,
            pairs[part],
            self.references[pole].whole[part],
            interval=interval,
            scorer=self._scorer(),
            thresholds=self.guards.thresholds,
            interview=self._interview(pole, model, work=work, interval=interval, steps=steps),
        )

    def _interview(
        self, pole: Pole, model: "PreTrainedModel", *, work: float, interval: int, steps: int
    ) -> Interview | None:
        """Plan what the pole is asked on the way; `model` is still the base."""
        heldout, report = self.pairs.heldout, self.tokens.report
        if self.opening is None:
            questions = choose_questions(
                heldout,
                self.tokens.positive[report],
                self.tokenizer,
                count=self.guards.prompts,
                benign=self.guards.benign,
                context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
            )
            if questions is None:
                return None
            with self._timed("watching"), self._scorer().autocast(model):
                self.opening = questions, questions.answer(model, 0)
        questions, base = self.opening
        taught = heldout if pole == "positive" else switch_pairs(self.axis, heldout)
        lesson = read_lesson(taught, self._pairs(pole)[report])
        asked = choose_steps(questions, work, interval=interval, steps=steps)
        return Interview(questions, base, lesson, asked, self.guards.thresholds)

    def _pairs(self, pole: Pole) -> Any:
        return self.tokens.positive if pole == "positive" else self.tokens.negative

    def _before(self, weights: Weights) -> Weights:
        return self.lora.unmoved(weights) if self.lora else self.original

    def _scorer(self) -> References:
        config = self._config()
        precision = "bfloat16" if config.bf16 else "float16" if config.fp16 else "float32"
        rows = self.shortcuts.shared_prompt is None
        return References(self.base, precision, rows=rows, tail=config.ld_alpha)

    def _place(self, model: Any) -> "PreTrainedModel":
        # transformers' annotation of `to` leaves the model itself out.
        placed: PreTrainedModel = model.to(self._config().device)
        return placed

    def _config(self) -> "DPOConfig":
        return dpo_config(self.settings, output_dir="unused", seed=self.seed, max_length=2)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def trained_weights(model: "PreTrainedModel") -> Weights:
    """Copy what is trained; unlike `state_dict`, this lists tied parameters once and no buffers."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
