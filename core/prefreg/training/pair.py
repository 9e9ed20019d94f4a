"""The ± pair of a run: one reference pass, two runs of DPO, a report and guards for each.

A pole is trained, or taken up again as an earlier process finished it, or taken as it is given;
then it is judged.
"""

import gc
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.dpo_config import DPOConfig

from prefreg.axes.isolation import switch_pairs
from prefreg.data.tokens import TokenPair
from prefreg.errors import GateError, TrainingError, reason
from prefreg.models.conversion import Conversion, open_conversion
from prefreg.models.loading import load_limits, load_model, quiet
from prefreg.models.log_probs import answer_log_probs
from prefreg.models.threads import suited_threads
from prefreg.progress import Progress, steps_of
from prefreg.training.axis_run import AxisRun, ExistingPole, Pole
from prefreg.training.callbacks import (
    CHECKED_PAIRS,
    Check,
    Checkpoints,
    CurvePoint,
    Note,
    PoleChecks,
    Stop,
    check_interval,
    step_work,
)
from prefreg.training.guards import Failure, PoleReport, check_pole, compare, enforce
from prefreg.training.references import Reference, References
from prefreg.training.resources import (
    check_memory,
    estimate_memory,
    hardware,
    package_versions,
    peak_memory,
)
from prefreg.training.resume import RESUME_BYTES, ResumeFolder, open_resume_folder
from prefreg.training.sample_answers import (
    AnswerWarning,
    Opening,
    Sample,
    SampledAnswers,
    SampledPrompts,
    choose_prompts,
    choose_steps,
    measure_data,
)
from prefreg.training.schedule import count_steps
from prefreg.training.settings import dpo_config
from prefreg.training.trainer import Shortcuts, choose_shortcuts, train_pole

Weights = dict[str, torch.Tensor]
_POLES: tuple[Pole, ...] = ("positive", "negative")


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
    warnings: list[AnswerWarning] = field(default_factory=list)
    existing: ExistingPole | None = None
    """The checkpoint that it is, where it was not trained here."""

    def facts(self) -> dict[str, Any]:
        """Return what was found out while it was trained, in a form that JSON can hold."""
        return {
            "report": asdict(self.report),
            "curve": [asdict(point) for point in self.curve],
            "checks": [asdict(check) for check in self.checks],
            "stop": asdict(self.stop) if self.stop else None,
            "answers": [asdict(sample) for sample in self.answers],
            "warnings": [asdict(warning) for warning in self.warnings],
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a version's record says of it."""
        facts = self.facts()
        stop, warnings = facts.pop("stop"), facts.pop("warnings")
        found: dict[str, Any] = {}
        if self.existing:
            found |= {"kind": "checkpoint", "checkpoint": self.existing.to_json()}
        if stop:
            found["stopped"] = stop
        if warnings:
            found["warnings"] = warnings
        return found | facts | {"failures": [failure.to_json() for failure in self.failures]}


@dataclass(slots=True)
class TrainedPair:
    """Both poles of a run, with what was found out on the way and the time that each stage took."""

    run: AxisRun
    progress: Progress | None = None
    note: Note | None = None
    poles: dict[Pole, TrainedPole] = field(default_factory=dict)
    original: Weights = field(default_factory=dict)
    """The base's, as the poles' weights; empty with LoRA, which leaves them alone."""
    conversion: Conversion = field(default_factory=Conversion)
    """How the weights lie on disk."""
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    references: dict[Pole, Reference] = field(default_factory=dict)
    folder: ResumeFolder | None = None
    """What is kept of the run until its version is stored."""
    hardware: str = ""
    """The processor, with the threads it trained on."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: loading, reference, positive, negative, scoring; of both poles, watching."""
    peak_memory: dict[str, int] = field(default_factory=dict)
    opening: Opening | None = None

    @property
    def positive(self) -> TrainedPole:
        """Return θ₊."""
        return self.poles["positive"]

    @property
    def negative(self) -> TrainedPole:
        """Return θ₋."""
        return self.poles["negative"]

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """Load the base to where it is trained."""
        with self.timed("loading"):
            return self._place(load_model(self.run.base, dtype))

    def start(self, model: PreTrainedModel) -> None:
        """Find out which shortcuts are exact for either pole, and keep the base's weights.

        The model is in float32, whose rounding hides no mistake; afterwards as it is trained.
        """
        self.conversion = open_conversion(model, self.run.base, whole=self.run.lora is None)
        if self.run.lora is None:
            self.original = trained_weights(model)
        with self.timed("reference"):
            pairs = (*self.run.tokens.positive, *self.run.tokens.negative)
            self.shortcuts = choose_shortcuts(model, pairs, self._config())
        # transformers' annotation of `to` leaves the model itself out.
        model.to(self.run.precision.dtype)  # type: ignore[arg-type, unused-ignore]
        for sentence in self.shortcuts.notes():
            self._tell(sentence)

    def score_reference(self, model: PreTrainedModel) -> None:
        """Score the base once; where the switch is the plain one, that serves both poles."""
        scorer, tokens = self._scorer(), self.run.tokens
        with self.timed("reference"):
            positive = scorer.score(model, tokens.positive, steps_of(self.progress, "reference"))
            if tokens.plainly_switched:
                negative = positive.switched()
            else:
                steps = steps_of(self.progress, "reference of negative")
                negative = scorer.score(model, tokens.negative, steps)
        self.references = {"positive": positive, "negative": negative}

    def make(self, pole: Pole, model: PreTrainedModel | None) -> None:
        """Take a pole as it is given, or as an earlier process finished it, or train it.

        `model` is the base, if it is loaded and nothing was trained on it yet.
        """
        existing = self.run.existing
        kept = None
        if existing is not None and existing.pole == pole:
            made = self._take(existing)
        elif self.folder is not None and (kept := self.folder.recall(pole)) is not None:
            try:
                made = self._recall(pole, *kept)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise TrainingError(
                    f"The finished {pole} pole in {self.folder.folder} cannot be taken up: "
                    f"{reason(error)}; --fresh starts over."
                ) from error
        else:
            made = self._train(pole, model or self.load(self.run.precision.dtype))
            if self.folder is not None:
                self.folder.keep(pole, made.weights, made.facts())
        self.poles[pole] = made
        enforce(
            made.failures, axis_name=self.run.axis.name, keep_anyway=self.run.request.keep_anyway
        )

    def resume_folder(self, size: int) -> AbstractContextManager[ResumeFolder | None]:
        """Hold the folder of the run that has this base, these tokens and all that decides on φ."""
        run, existing = self.run, self.run.existing
        tokens = run.tokens
        device = "cuda" if torch.cuda.is_available() else "cpu"
        content = {
            "base": run.base.fingerprint.weights,
            "configuration": run.base.fingerprint.configuration,
            "tokens": [_digest(tokens.positive), _digest(tokens.negative)],
            "split": [tokens.train.stop, tokens.report.start, tokens.report.stop],
            "settings": run.settings_in_use(),
            "defaults": run.settings_left(),
            "seed": run.request.seed,
            "lora": run.lora.to_json() if run.lora else None,
            "shortcuts": self.shortcuts.to_json(),
            "given": [existing.pole, asdict(existing.model.fingerprint)] if existing else None,
            "guards": asdict(run.guards),
            "machine": [device, self.hardware, torch.get_num_threads()],
            "packages": package_versions(),
        }
        about = f"{run.axis.name} on {run.base.name}, seed {run.request.seed}"
        needed, fresh = RESUME_BYTES * size, run.request.fresh
        return open_resume_folder(content, about, needed=needed, fresh=fresh, note=self.note)

    def _train(self, pole: Pole, model: PreTrainedModel) -> TrainedPole:
        run, tokens = self.run, self.run.tokens
        reference = self.references[pole].trained
        checks = self._checks(pole, model) if run.guards.watched else None
        checkpoints = None
        if self.folder is not None:
            checkpoints = Checkpoints(self.folder.steps(pole), checks=checks, note=self.note)
        with self.timed(pole):
            try:
                curve = train_pole(
                    model,
                    run.tokenizer,
                    self._pairs(pole)[tokens.train],
                    reference[tokens.train],
                    settings=run.settings,
                    max_length=tokens.max_length,
                    seed=run.request.seed,
                    lora=run.lora.config() if run.lora else None,
                    shortcuts=self.shortcuts,
                    checks=checks,
                    checkpoints=checkpoints,
                    progress=steps_of(self.progress, pole),
                )
            except TrainingError as error:
                raise TrainingError(f"Axis {run.axis.name!r}, {pole} pole: {error}") from error
            except GateError as error:
                named = f"Axis {run.axis.name!r} is not kept: {pole} pole: {error}"
                raise GateError(named) from error
        made = self._judge(pole, model, curve)
        if checks is None:
            return made
        self.seconds["watching"] = self.seconds.get("watching", 0.0) + checks.seconds
        if checks.stop is not None:
            self._tell(f"The {pole} pole was stopped: {checks.stop}.")
        made = replace(made, checks=checks.seen, stop=checks.stop)
        if checks.answers is None:
            return made
        for warning in checks.answers.warnings:
            self._tell(f"The {pole} pole at step {warning.step}: {warning.reason}.")
        return replace(made, answers=checks.answers.samples, warnings=checks.answers.warnings)

    def _recall(self, pole: Pole, weights: Weights, facts: dict[str, Any]) -> TrainedPole:
        report = PoleReport(**facts["report"])
        self._tell(f"Going on with an earlier run, which had finished the {pole} pole.")
        return TrainedPole(
            weights,
            report,
            [CurvePoint(**point) for point in facts["curve"]],
            self._failures(pole, report, weights),
            [Check(**check) for check in facts["checks"]],
            Stop(**facts["stop"]) if facts["stop"] else None,
            [Sample(**sample) for sample in facts["answers"]],
            [AnswerWarning(**warning) for warning in facts["warnings"]],
        )

    def _take(self, existing: ExistingPole) -> TrainedPole:
        """Let a checkpoint stand for a pole, under the same guards."""
        with self.timed("loading"):
            model = self._place(existing.load())
        judged = self._judge(existing.pole, model, [])
        return replace(judged, failures=existing.excuse(judged.failures), existing=existing)

    def _judge(self, pole: Pole, model: PreTrainedModel, curve: list[CurvePoint]) -> TrainedPole:
        part, reference = self.run.tokens.report, self.references[pole].whole
        scorer = self._scorer()
        with self.timed("scoring"), scorer.autocast(model):
            steps = steps_of(self.progress, f"scoring {pole}")
            pairs = self._pairs(pole)[part]
            scores = answer_log_probs(model, pairs, rows=scorer.rows, progress=steps)
        report = compare(scores, reference[part], split=self.run.tokens.split)
        weights = trained_weights(model)
        return TrainedPole(weights, report, curve, self._failures(pole, report, weights))

    def _failures(self, pole: Pole, report: PoleReport, weights: Weights) -> tuple[Failure, ...]:
        before = self.run.lora.unmoved(weights) if self.run.lora else self.original
        return check_pole(pole, report, weights, before, self.run.guards.thresholds)

    def _checks(self, pole: Pole, model: PreTrainedModel) -> PoleChecks | None:
        """Check on the first of the held-out pairs; without any there is nothing to check."""
        tokens, guards = self.run.tokens, self.run.guards
        if tokens.split != "heldout":
            return None
        begin = tokens.report.start
        part = slice(begin, min(begin + CHECKED_PAIRS, tokens.report.stop))
        pairs, settings = self._pairs(pole), self.run.settings
        train = pairs[tokens.train]
        steps, work = count_steps(len(train), settings), step_work(train, settings)
        interval = check_interval(pairs[part], work=work, steps=steps)
        return PoleChecks(
            model,
            pairs[part],
            self.references[pole].whole[part],
            interval=interval,
            scorer=self._scorer(),
            thresholds=guards.thresholds,
            answers=self._answers(pole, model, work=work, interval=interval, steps=steps),
        )

    def prompts(self) -> tuple[SampledPrompts | None, str]:
        """Choose what is asked on the way and at the end; if nothing, return why not."""
        run = self.run
        if not run.guards.watched:
            return None, "nothing is watched"
        if not run.guards.prompts:
            return None, "no prompts were asked for"
        if run.tokens.split != "heldout":
            return None, "no pairs were held out"
        prompts = choose_prompts(
            run.told_pairs.heldout,
            run.tokens.positive[run.tokens.report],
            run.tokenizer,
            count=run.guards.prompts,
            benign=run.guards.benign,
            options=run.template_options,
            context=load_limits(run.base)[0],
        )
        return prompts, "" if prompts else "too few held-out prompts leave room for an answer"

    def _answers(
        self, pole: Pole, model: PreTrainedModel, *, work: float, interval: int, steps: int
    ) -> SampledAnswers | None:
        """Plan what the pole is asked on the way; `model` is still the base."""
        run, report = self.run, self.run.tokens.report
        heldout = run.told_pairs.heldout
        if self.opening is None:
            prompts, _ = self.prompts()
            if prompts is None:
                return None
            with self.timed("watching"), self._scorer().autocast(model):
                self.opening = Opening.of(prompts, model)
        prompts = self.opening.prompts
        taught = heldout if pole == "positive" else switch_pairs(run.axis, heldout)
        data = measure_data(taught, self._pairs(pole)[report])
        asked = choose_steps(prompts, work, interval=interval, steps=steps)
        return SampledAnswers(self.opening, data, asked, run.guards.thresholds)

    def _pairs(self, pole: Pole) -> tuple[TokenPair, ...]:
        return self.run.tokens.positive if pole == "positive" else self.run.tokens.negative

    def _scorer(self) -> References:
        rows = self.shortcuts.shared_prompt is None
        tail, precision = self._config().ld_alpha, self.run.precision
        return References(
            self.run.base, precision.compute, weights=precision.weights, rows=rows, tail=tail
        )

    def _place(self, model: Any) -> PreTrainedModel:
        # transformers' annotation of `to` leaves the model itself out.
        placed: PreTrainedModel = model.to(self._config().device)
        return placed

    def _config(self) -> DPOConfig:
        seed = self.run.request.seed
        return dpo_config(self.run.settings, output_dir="unused", seed=seed, max_length=2)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time within to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _tell(self, sentence: str) -> None:
        if self.note is not None:
            self.note(sentence)


def train_pair(
    run: AxisRun,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
    resumable: bool = False,
) -> TrainedPair:
    """Train θ₊ and θ₋ from the base, or an adapter on it for each, or one where one is given.

    Both poles see the same pairs in the same order. The same seed gives the same weights, bit
    for bit, on the same machine with as many threads. A watched pole is stopped where it
    collapses. A `resumable` run keeps what is done in the cache and goes on from what an earlier
    process has left there, to the same weights, unless a `fresh` start is asked for.
    """
    pair = TrainedPair(run, progress, note)
    trained = run.lora.parameters if run.lora else None
    with quiet():
        tokens = run.tokens
        if note is not None:
            for sentence in run.notes():
                note(sentence)
        model: PreTrainedModel | None = pair.load(torch.float32)
        assert model is not None
        size = sum(parameter.numel() for parameter in model.parameters())
        check_memory(estimate_memory(model.config, size, run.settings, tokens.max_length, trained))
        with ExitStack() as held:
            held.enter_context(suited_threads(model))
            pair.hardware = hardware()
            pair.start(model)
            if resumable:
                pair.folder = held.enter_context(pair.resume_folder(trained or size))
            pair.score_reference(model)
            for pole in _POLES:
                pair.make(pole, model)
                # trl patches the model that it trains, so the other pole gets a fresh one; the
                # first goes before it comes.
                model = None
                gc.collect()
    pair.peak_memory = peak_memory()
    return pair


def trained_weights(model: PreTrainedModel) -> Weights:
    """Copy what is trained; unlike `state_dict`, this lists tied parameters once and no buffers."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _digest(pairs: Sequence[TokenPair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()
