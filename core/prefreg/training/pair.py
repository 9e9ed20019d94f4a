"""The ± pair of a run: one reference pass, two runs of DPO, a report and guards for each.

A pole is trained, or taken up again as an earlier process finished it, or taken as it is given;
then it is judged.
"""

import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.dpo_config import DPOConfig

from prefreg.axes.isolation import switch_pairs
from prefreg.data.tokens import TokenPair
from prefreg.errors import DataError, GateError, TrainingError, UsageError, reason
from prefreg.models.conversion import Conversion, open_conversion
from prefreg.models.loading import load_limits, load_model, quiet
from prefreg.models.log_probs import answer_log_probs
from prefreg.models.ranks import Ranks, current
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
from prefreg.training.guards import Failure, PoleReport, check_pair, check_pole, compare, enforce
from prefreg.training.references import Reference, References
from prefreg.training.resources import (
    check_memory,
    estimate_memory,
    hardware,
    package_versions,
    peak_memory,
)
from prefreg.training.resume import (
    RESUME_BYTES,
    ResumeFolder,
    has_left,
    open_resume_folder,
)
from prefreg.training.run_state import StoredWeights, trained, write_trained
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
from prefreg.training.trainer import Shortcuts, choose_shortcuts, reads_chosen_only, train_pole
from prefreg.vectors.tensors import CheckpointTensors

Weights = Mapping[str, torch.Tensor]
_POLES: tuple[Pole, ...] = ("positive", "negative")


@dataclass(frozen=True, slots=True)
class TrainedPole:
    """One pole: its weights, how it got there and what it learnt."""

    weights: Weights
    """What was trained, by its names on disk (of adapters in memory), float32 on the CPU."""
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
    ranks: Ranks = field(default_factory=current)
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

    def load(self, dtype: torch.dtype, *, four_bit: bool = False) -> PreTrainedModel:
        """Load the base to where it is trained: each of several processes its part, if so asked."""

        def load() -> PreTrainedModel:
            model = load_model(self.run.base, dtype, four_bit=four_bit)
            if not (self.conversion.stored or four_bit):
                whole = self.run.lora is None
                self.conversion = open_conversion(model, self.run.base, whole=whole)
            return model

        return self._place(load)

    def _fresh(self) -> PreTrainedModel:
        """Load the base as it is trained."""
        precision = self.run.precision
        return self.load(precision.dtype, four_bit=precision.four_bit)

    def start(self, model: PreTrainedModel) -> PreTrainedModel:
        """Find out which shortcuts are exact for either pole, and keep the base's weights.

        The model is in float32, whose rounding hides no mistake; it is returned as it is trained.
        """
        if self.run.lora is None:
            self.original = self._base_weights(model)
        with self.timed("reference"):
            pairs = (*self.run.tokens.positive, *self.run.tokens.negative)
            self.shortcuts = self.ranks.share(choose_shortcuts(model, pairs, self._config()))
        for sentence in self.shortcuts.notes():
            self._tell(sentence)
        dtype, four_bit = self.run.precision.dtype, self.run.precision.four_bit
        if (self.ranks.sharded or four_bit) and dtype != torch.float32:
            return self._fresh()
        if four_bit:
            return model
        # transformers' annotation of `to` leaves the model itself out.
        model.to(dtype)  # type: ignore[arg-type, unused-ignore]
        return model

    def _base_weights(self, model: PreTrainedModel) -> Weights:
        """Return the base's weights as the poles' are; several processes read them when needed."""
        if self.ranks.world == 1:
            return self.conversion.store(trained_weights(model))
        held, base = trained(model), self.run.base.checkpoint
        names = {self.conversion.names[name] for name in held if name in self.conversion.names}
        for fusion in self.conversion.fusions:
            if held.keys() & set(fusion.weights):
                names.update(fusion.stored)
        return StoredWeights(CheckpointTensors(base, {name: name for name in names}))

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
        elif self.folder is not None and (kept := self._kept(pole)) is not None:
            try:
                made = self._recall(pole, *kept)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise TrainingError(
                    f"The finished {pole} pole in {self.folder.folder} cannot be taken up: "
                    f"{reason(error)}; --fresh starts over."
                ) from error
        else:
            made = self._train(pole, model or self._fresh())
            if self.folder is not None and self.ranks.first:
                in_place = isinstance(made.weights, StoredWeights)
                self.folder.keep(pole, None if in_place else made.weights, made.facts())
        self.poles[pole] = made
        if len(self.poles) == len(_POLES) and reads_chosen_only(self._config()):
            limits = self.run.guards.thresholds
            of_both = check_pair(self.positive.report, self.negative.report, limits)
            self.poles[pole] = made = replace(made, failures=(*made.failures, *of_both))
        enforce(
            made.failures, axis_name=self.run.axis.name, keep_anyway=self.run.request.keep_anyway
        )

    def _kept(self, pole: Pole) -> "tuple[Weights, dict[str, Any]] | None":
        """Return a pole that is finished; several processes leave it on the disk."""
        assert self.folder is not None
        folder, whole = self.folder, self.run.lora is None
        read = StoredWeights.of_file if whole and self.ranks.world > 1 else None
        return self.ranks.once(lambda: folder.recall(pole, read))

    def resume_folder(self, size: int) -> AbstractContextManager[ResumeFolder | None]:
        """Hold the folder of the run that has this base, these tokens and all that decides on φ.

        One process takes up what several have left, if it has left nothing itself. What it left
        is its own: that goes on bit for bit.
        """
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
            "packages": package_versions(),
        }
        if run.precision.four_bit:
            content["weights"] = run.precision.weights
        alone = content | {"machine": [device, self.hardware, torch.get_num_threads()]}
        several = content | {"machine": [device, "several processes"]}
        if self.ranks.world > 1:
            self._agree_on(several)
            content = several
        else:
            content = several if has_left(several) and not has_left(alone) else alone
        about = f"{run.axis.name} on {run.base.name}, seed {run.request.seed}"
        needed, fresh = RESUME_BYTES * size, run.request.fresh
        if self.ranks.first:
            return open_resume_folder(content, about, needed=needed, fresh=fresh, note=self.note)
        return nullcontext()

    def _agree_on(self, content: Mapping[str, Any]) -> None:
        """Refuse processes that were given other data, another base or other settings."""
        for rank, found in enumerate(self.ranks.gather(content)):
            mine = self.ranks.share(content)
            if other := [name for name in mine if found[name] != mine[name]]:
                raise DataError(
                    f"Process {rank} of {self.ranks.world} has other {' and '.join(other)} than "
                    "the first: give all of them the same command, files, cache and packages."
                )

    @contextmanager
    def holding(self, size: int, *, resumable: bool) -> Iterator[None]:
        """Hold a folder that the run can be taken up from, and that several processes share."""
        with ExitStack() as held:
            if resumable or self.ranks.world > 1:
                self.folder = held.enter_context(self.resume_folder(size))
            if self.ranks.world > 1:
                place = self.ranks.share(self.folder.folder if self.folder else None)
                if place is None:
                    raise TrainingError(
                        "Several processes keep their poles in PREFREG_CACHE, which lacks room or "
                        "rights, or another run of the same is under way."
                    )
                self.folder = ResumeFolder(place, self.note)
                if not all(self.ranks.gather(place.is_dir())):
                    raise TrainingError(
                        f"Not every process sees {place}: set PREFREG_CACHE to a folder that all "
                        "machines of the run share."
                    )
            yield

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
        model = self._place(existing.load)
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
        weights: Weights
        if self.run.lora is not None:
            weights = trained_weights(model)
        elif self.ranks.world == 1:
            weights = self.conversion.store(trained_weights(model))
        else:
            assert self.folder is not None
            base = self.run.base.checkpoint
            weights = write_trained(self.folder.file(pole), model, self.conversion, base)
        return TrainedPole(weights, report, curve, self._failures(pole, report, weights))

    def _failures(self, pole: Pole, report: PoleReport, weights: Weights) -> tuple[Failure, ...]:
        before = self.run.lora.unmoved(weights) if self.run.lora else self.original
        limits, prefers = self.run.guards.thresholds, not reads_chosen_only(self._config())
        return self.ranks.once(
            lambda: check_pole(pole, report, weights, before, limits, prefers=prefers)
        )

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

    def _place(self, load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """Load a model to where it is trained, in one process of a machine at a time."""
        device = self._config().device
        mesh = self.ranks.mesh(device) if self.ranks.sharded else None

        def placed() -> PreTrainedModel:
            model: Any = load()  # transformers' annotation of `to` leaves the model itself out
            if mesh is None:
                return model.to(device)  # type: ignore[no-any-return]
            self.ranks.shard(model, mesh)
            return model  # type: ignore[no-any-return]

        with self.timed("loading"):
            return self.ranks.in_turn(placed)

    def _config(self) -> DPOConfig:
        return pair_config(self.run)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time within to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _tell(self, sentence: str) -> None:
        if self.note is not None:
            self.note(sentence)


def pair_config(run: AxisRun) -> DPOConfig:
    """Make TRL's configuration of a run, to read what it decides."""
    seed = run.request.seed
    return dpo_config(run.settings, output_dir="unused", seed=seed, max_length=2)


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
    adapters = run.lora.parameters if run.lora else None
    with quiet():
        tokens = run.tokens
        if note is not None:
            for sentence in run.notes():
                note(sentence)
        check_processes(run, pair.ranks)
        four_bit = run.precision.four_bit
        model: PreTrainedModel | None = pair.load(torch.float32, four_bit=four_bit)
        assert model is not None
        size = run.base.fingerprint.parameters
        if not four_bit:
            size = sum(parameter.numel() for parameter in model.parameters())
        need = estimate_memory(
            model.config, size, run.settings, tokens.max_length, adapters, four_bit=four_bit
        )
        check_memory(need, pair.ranks)
        with ExitStack() as held:
            held.enter_context(suited_threads(model))
            pair.hardware = hardware()
            model = pair.start(model)
            held.enter_context(pair.holding(adapters or size, resumable=resumable))
            pair.score_reference(model)
            for pole in _POLES:
                pair.make(pole, model)
                # trl patches the model that it trains, so the other pole gets a fresh one; the
                # first goes before it comes.
                model = None
                gc.collect()
    pair.peak_memory = peak_memory()
    return pair


_OPTIMISERS = {"adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"}


def check_processes(run: AxisRun, ranks: Ranks) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        UsageError: They are too many, or a setting is for one process.
    """
    if ranks.world == 1:
        return
    values, config = run.settings.values, pair_config(run)
    pairs, step = run.schedule.pairs, run.schedule.pairs_per_step
    if ranks.world > min(pairs, step):
        few = f"{pairs} pairs" if pairs < step else f"the {step} pairs of a step"
        raise UsageError(
            f"{ranks.world} processes cannot share {few}: start at most {min(pairs, step)}, or "
            "take more pairs (per_device_train_batch_size × gradient_accumulation_steps a step)."
        )
    optimiser = str(getattr(config.optim, "value", config.optim))
    if optimiser not in _OPTIMISERS:
        raise UsageError(
            f"optim={optimiser} is for one process; several take {', '.join(sorted(_OPTIMISERS))}."
        )
    for name, instead in (("fp16", "bf16=true"), ("torch_compile", "no torch_compile")):
        if values.get(name):
            raise UsageError(f"{name} is for one process: with several take {instead}.")


def trained_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copy what is trained, by its names in memory."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in trained(model).items()
    }


def _digest(pairs: Sequence[TokenPair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()
