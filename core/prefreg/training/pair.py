"""The ± pair of an axis: one reference pass, two runs of DPO, a report and guards for each."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from prefreg.axes import Axis
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.audit import Audit
from prefreg.data.pairs import PairSet
from prefreg.errors import TrainingError
from prefreg.scoring.log_probs import answer_log_probs
from prefreg.scoring.report import PoleReport, compare
from prefreg.training.environment import hardware, package_versions, peak_memory
from prefreg.training.guards import Failure, check_pole, enforce
from prefreg.training.loading import load_limits, load_model, load_tokenizer, quiet
from prefreg.training.lora import Lora, LoraOptions, choose_layers
from prefreg.training.preflight import check_memory, estimate_memory
from prefreg.training.progress import Progress
from prefreg.training.references import Origin, Reference, References
from prefreg.training.settings import Settings
from prefreg.training.shortcuts import Shortcuts, choose_shortcuts
from prefreg.training.tokenising import TokenisedPairs, tokenise
from prefreg.training.trainer import CurvePoint, default_settings, dpo_config, train_pole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.dpo_config import DPOConfig

Weights = dict[str, torch.Tensor]
Pole = Literal["positive", "negative"]


@dataclass(frozen=True, slots=True)
class TrainedPole:
    """One pole: its weights, how it got there and what it learnt."""

    weights: Weights
    """Trained parameters by their names in memory, float32 on the CPU, tied ones once."""
    report: PoleReport
    curve: list[CurvePoint]
    failures: tuple[Failure, ...]
    """Thresholds that it missed, and is kept all the same."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """Both poles with everything that is recorded about their training."""

    positive: TrainedPole
    negative: TrainedPole
    base: Weights
    """As the poles' weights; empty where they are an adapter's."""
    prefix: str
    """The part of the parameters' names that older checkpoints leave out."""
    lora: Lora | None
    """What the weights are the factors of, where the base's own were left alone."""
    audit: Audit
    renderings: tuple[str, ...]
    """How pairs were written: `chat`, `none` (no chat template) or `text`."""
    settings: dict[str, Any]
    """As resolved, with the maximum length that was used."""
    defaults: dict[str, Any]
    """What TRL takes for the settings that nobody set."""
    shortcuts: Shortcuts
    references: dict[Pole, Origin]
    """How each pole came by the reference's log-probabilities."""
    seed: int
    seconds: dict[str, float]
    """Time by stage: loading, reference, positive, negative, scoring."""
    packages: dict[str, str]
    hardware: str
    peak_memory: dict[str, int]


def train_pair(
    *,
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    seed: int,
    lora: LoraOptions | None = None,
    keep_anyway: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> PairResult:
    """Train θ₊ and θ₋ from the base, or an adapter on it for each.

    Both poles see the same pairs in the same order; `note` gets what makes the run slow. The same
    seed gives the same weights, bit for bit, on the same machine with as many threads.

    Raises:
        UsageError: The maximum length exceeds the model's context, or LoRA finds no such layer.
        DataError: The pairs cannot be written as tokens, or none is left.
        BaseModelError: The base cannot be loaded.
        TrainingError: Memory is short, or training diverged.
        GateError: A pole missed a threshold and `keep_anyway` is false.
    """
    chosen = choose_layers(lora, base) if lora else None
    run = _Run(base, axis, settings, seed, chosen, progress)
    with quiet():
        tokenizer = load_tokenizer(base)
        context, vocabulary = load_limits(base)
        tokens = tokenise(
            axis, pairs, tokenizer, settings=settings, context=context, vocabulary=vocabulary
        )
        model = run.load()
        size = sum(parameter.numel() for parameter in model.parameters())
        trained = chosen.parameters if chosen else None
        check_memory(estimate_memory(model.config, size, settings, tokens.max_length, trained))
        original = {} if chosen else _weights(model)
        prefix = model.base_model_prefix
        shortcuts = run.choose(model, tokens)
        if note is not None:
            for sentence in shortcuts.notes():
                note(sentence)
        references = run.reference(model, tokens, shortcuts)

        def train(pole: Pole, model: "PreTrainedModel") -> TrainedPole:
            reference = references[pole]
            done = run.train(pole, model, tokenizer, tokens, reference, original, shortcuts)
            enforce(done.failures, axis_name=axis.name, keep_anyway=keep_anyway)
            return done

        positive = train("positive", model)
        # trl patches the model that it trains, so the other pole gets a fresh one; the first
        # goes before it comes.
        del model
        gc.collect()
        negative = train("negative", run.load())
    return PairResult(
        positive=positive,
        negative=negative,
        base=original,
        prefix=prefix,
        lora=chosen,
        audit=tokens.audit,
        renderings=tokens.renderings,
        settings=settings.as_dict() | {"max_length": tokens.max_length},
        defaults=default_settings(settings, max_length=tokens.max_length),
        shortcuts=shortcuts,
        references={pole: reference.origin for pole, reference in references.items()},
        seed=seed,
        seconds=run.seconds,
        packages=package_versions(),
        hardware=hardware(),
        peak_memory=peak_memory(),
    )


@dataclass(slots=True)
class _Run:
    """What every stage of one call needs, and the time that each took."""

    base: BaseModel
    axis: Axis
    settings: Settings
    seed: int
    lora: Lora | None
    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    def load(self) -> "PreTrainedModel":
        with self._timed("loading"):
            # transformers' annotation of `to` leaves the model itself out.
            model: Any = load_model(self.base)
            loaded: PreTrainedModel = model.to(self._config().device)
            return loaded

    def choose(self, model: "PreTrainedModel", tokens: TokenisedPairs) -> Shortcuts:
        """Find out which shortcuts are exact for either pole."""
        with self._timed("reference"):
            pairs = (*tokens.positive, *tokens.negative)
            return choose_shortcuts(model, pairs, self._config())

    def reference(
        self, model: "PreTrainedModel", tokens: TokenisedPairs, shortcuts: Shortcuts
    ) -> dict[Pole, Reference]:
        """Score the base once; where the switch is the plain one, that serves both poles."""
        scorer = self._scorer(shortcuts)
        with self._timed("reference"):
            positive = scorer.score(model, tokens.positive, self._steps("reference"))
            if tokens.plainly_switched:
                return {"positive": positive, "negative": positive.switched()}
            steps = self._steps("reference of negative")
            return {"positive": positive, "negative": scorer.score(model, tokens.negative, steps)}

    def train(
        self,
        pole: Pole,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        tokens: TokenisedPairs,
        reference: Reference,
        original: Weights,
        shortcuts: Shortcuts,
    ) -> TrainedPole:
        pairs = tokens.positive if pole == "positive" else tokens.negative
        with self._timed(pole):
            try:
                curve = train_pole(
                    model,
                    tokenizer,
                    pairs[tokens.train],
                    reference.trained[tokens.train],
                    settings=self.settings,
                    max_length=tokens.max_length,
                    seed=self.seed,
                    lora=self.lora.config() if self.lora else None,
                    shortcuts=shortcuts,
                    progress=self._losses(pole),
                )
            except TrainingError as error:
                raise TrainingError(f"Axis {self.axis.name!r}, {pole} pole: {error}") from error
        with self._timed("scoring"):
            steps = self._steps(f"scoring {pole}")
            scorer = self._scorer(shortcuts)
            with scorer.autocast(model):
                scores = answer_log_probs(
                    model, pairs[tokens.report], rows=scorer.rows, progress=steps
                )
        report = compare(scores, reference.whole[tokens.report], split=tokens.split)
        weights = _weights(model)
        before = self.lora.unmoved(weights) if self.lora else original
        return TrainedPole(weights, report, curve, check_pole(pole, report, weights, before))

    def _scorer(self, shortcuts: Shortcuts) -> References:
        config = self._config()
        precision = "bfloat16" if config.bf16 else "float16" if config.fp16 else "float32"
        rows = shortcuts.shared_prompt is None
        return References(self.base, precision, rows=rows, tail=config.ld_alpha)

    def _config(self) -> "DPOConfig":
        return dpo_config(self.settings, output_dir="unused", seed=self.seed, max_length=2)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _steps(self, stage: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        return (lambda step, total: progress(stage, step, total)) if progress else None

    def _losses(self, stage: str) -> Callable[[int, int, float | None], None] | None:
        progress = self.progress
        return (lambda step, total, loss: progress(stage, step, total, loss)) if progress else None


def _weights(model: "PreTrainedModel") -> Weights:
    """Copy what is trained; unlike `state_dict`, this lists tied parameters once and no buffers."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
