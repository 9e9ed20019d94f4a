"""The ± pair of an axis: one reference pass, two runs of DPO, a report and guards for each."""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.pairs import Audit, PairSet
from prefreg.data.tokens import Policy, TokenPair
from prefreg.models.loading import load_limits, load_tokenizer, quiet
from prefreg.progress import Progress
from prefreg.training.axis_request import LoraOptions
from prefreg.training.batches import Shortcuts
from prefreg.training.existing_pole import GivenPole, Pole
from prefreg.training.guards import GUARDS, Guards, enforce
from prefreg.training.lora import Lora, choose_layers
from prefreg.training.pole import Note, PoleMaker, TrainedPole, Weights
from prefreg.training.references import Origin
from prefreg.training.resources import (
    check_memory,
    estimate_memory,
    hardware,
    package_versions,
    peak_memory,
)
from prefreg.training.resume import SCRATCH_BYTES, Scratch, open_scratch
from prefreg.training.settings import Settings
from prefreg.training.tokenising import tokenise
from prefreg.training.trainer import default_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PairResult", "TrainedPole", "train_pair"]

_POLES: tuple[Pole, ...] = ("positive", "negative")


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
    guards: Guards
    shortcuts: Shortcuts
    references: dict[Pole, Origin]
    """How each pole came by the reference's log-probabilities."""
    seed: int
    seconds: dict[str, float]
    """Time by stage: loading, reference, positive, negative, scoring; of both poles, watching."""
    packages: dict[str, str]
    hardware: str
    peak_memory: dict[str, int]
    scratch: Scratch | None
    """What is kept of the run until its version is stored."""


def train_pair(
    *,
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    seed: int,
    lora: LoraOptions | None = None,
    too_long: Policy = "truncate",
    given: GivenPole | None = None,
    keep_anyway: bool = False,
    guards: Guards = GUARDS,
    resumable: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> PairResult:
    """Train θ₊ and θ₋ from the base, or an adapter on it for each, or one where one is given.

    Both poles see the same pairs in the same order. The same seed gives the same weights, bit
    for bit, on the same machine with as many threads. A watched pole is stopped where it
    collapses. A `resumable` run keeps what is done in the cache and goes on from what an earlier
    process has left there, to the same weights; `fresh` starts over.
    """
    chosen = choose_layers(lora, base) if lora else None
    with quiet():
        tokenizer = load_tokenizer(base)
        context, vocabulary = load_limits(base)
        tokens = tokenise(
            axis,
            pairs,
            tokenizer,
            settings=settings,
            context=context,
            vocabulary=vocabulary,
            policy=too_long,
        )
        if note is not None:
            for sentence in tokens.notes:
                note(sentence)
        run = PoleMaker(
            base, axis, settings, seed, chosen, pairs, tokens, tokenizer, guards, progress, note
        )
        model = run.load()
        size = sum(parameter.numel() for parameter in model.parameters())
        trained = chosen.parameters if chosen else None
        check_memory(estimate_memory(model.config, size, settings, tokens.max_length, trained))
        run.prepare(model)
        if note is not None:
            for sentence in run.shortcuts.notes():
                note(sentence)
        prefix = model.base_model_prefix
        poles: dict[Pole, TrainedPole] = {}
        kept = _scratch(run, given, size=trained or size, fresh=fresh)
        with kept if resumable else nullcontext() as run.scratch:
            run.score_reference(model)
            fresh_model: PreTrainedModel | None = model
            del model
            for pole in _POLES:
                poles[pole] = run.make(pole, given, fresh_model)
                enforce(poles[pole].failures, axis_name=axis.name, keep_anyway=keep_anyway)
                # trl patches the model that it trains, so the other pole gets a fresh one; the
                # first goes before it comes.
                fresh_model = None
                gc.collect()
    return PairResult(
        positive=poles["positive"],
        negative=poles["negative"],
        base=run.original,
        prefix=prefix,
        lora=chosen,
        audit=tokens.audit,
        renderings=tokens.renderings,
        settings=settings.to_json() | {"max_length": tokens.max_length},
        defaults=default_settings(settings, max_length=tokens.max_length),
        guards=guards,
        shortcuts=run.shortcuts,
        references={pole: reference.origin for pole, reference in run.references.items()},
        seed=seed,
        seconds=run.seconds,
        packages=package_versions(),
        hardware=hardware(),
        peak_memory=peak_memory(),
        scratch=run.scratch,
    )


@contextmanager
def _scratch(
    run: PoleMaker, given: GivenPole | None, *, size: int, fresh: bool
) -> Iterator[Scratch | None]:
    """Hold the scratch of the run that has this base, these tokens and all that decides on φ."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = {
        "base": run.base.fingerprint.weights,
        "configuration": run.base.checkpoint.config,
        "tokens": [_digest(run.tokens.positive), _digest(run.tokens.negative)],
        "split": [run.tokens.train.stop, run.tokens.report.start, run.tokens.report.stop],
        "settings": run.settings.to_json() | {"max_length": run.tokens.max_length},
        "defaults": default_settings(run.settings, max_length=run.tokens.max_length),
        "seed": run.seed,
        "lora": run.lora.to_json() if run.lora else None,
        "shortcuts": run.shortcuts.to_json(),
        "given": [given.pole, given.model.fingerprint.weights] if given else None,
        "guards": asdict(run.guards),
        "machine": [device, hardware(), torch.get_num_threads()],
        "packages": package_versions(),
    }
    about = f"{run.axis.name} on {run.base.name}, seed {run.seed}"
    with open_scratch(
        content, about, needed=SCRATCH_BYTES * size, fresh=fresh, note=run.note
    ) as scratch:
        yield scratch


def _digest(pairs: Sequence[TokenPair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()
