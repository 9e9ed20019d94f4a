"""Fine-tune a raw model on instructions: rows → answers → tokens → θ_base, a known base."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prefreg.checkpoints import resolve_base
from prefreg.composition.output import RECIPE_FILE, new_folder, write_file
from prefreg.composition.resolve import identify
from prefreg.data.instructions import InstructionAudit, InstructionSet, read_instructions
from prefreg.data.rendering import padding_id
from prefreg.data.tokens import AnswerSet, TokenAnswer, check_max_length, tokenize_answers
from prefreg.errors import DataError, TrainingError, UsageError
from prefreg.files import hash_bytes
from prefreg.models.loading import load_limits, load_tokenizer, quiet
from prefreg.progress import Progress, steps_of
from prefreg.registry import BaseIdentity
from prefreg.registry.access import Access
from prefreg.training import settings
from prefreg.training.axis_request import SFTRequest
from prefreg.training.resources import check_memory, estimate_memory, hardware, package_versions
from prefreg.training.settings import Family, Settings, resolve_settings
from prefreg.training.sft.raw_model import RawModel, find_raw, random_raw
from prefreg.training.sft.sft_trainer import (
    TEMPLATE_FILE,
    ChatTemplate,
    Point,
    answer_loss,
    choose_template,
    fine_tune,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ANSWERS = "held-out answers are scored before and after training"
_FOLDER = "the model appears in the folder of -o, whole or not at all"
_TEMPLATE = "--chat-template names one, and prefreg.json records it"
_ROWS = "prefreg reads the rows itself"

# Where the reasons of the pair's training do not hold, those of this one stand instead.
_REASONS = {
    settings.HELDOUT: _ANSWERS,
    settings.KEPT: _FOLDER,
    settings.ORDER: "the order of the examples follows from --seed",
    settings.RECORD: "prefreg records every step in prefreg.json, and shows progress unless -q",
}
_DPO_ONLY = {
    name for name, reason in settings.OWN.items() if reason in (settings.SHARED, settings.FIXED)
}

OWN: Mapping[str, str] = {
    **{
        name: _REASONS.get(reason, reason)
        for name, reason in settings.OWN.items()
        if name not in _DPO_ONLY
    },
    "do_train": "prefreg sft trains",
    "label_smoothing_factor": "trl's loss ignores it",
    "packing": settings.TOKENS,
    "packing_strategy": settings.TOKENS,
    "eos_token": settings.TOKENS,
    "dataset_text_field": _ROWS,
    "dataset_kwargs": _ROWS,
    "shuffle_dataset": "the order of the examples follows from --seed",
    "chat_template_path": _TEMPLATE,
    "assistant_only_loss": "each answer is an example of its own; see completion_only_loss",
}
OWN_PREFIXES = {
    name: _REASONS.get(reason, reason) for name, reason in settings.OWN_PREFIXES.items()
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The paper's table: 4 examples a device × 8 accumulated × 8 devices are 256 a step.
        "paper": {
            "num_train_epochs": 3.0,
            "max_steps": -1,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 64,
            "learning_rate": 2e-5,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "completion_only_loss": True,
        },
        # A first look: fewer and larger steps, 1,600 examples at most.
        "quick": {
            "num_train_epochs": 1.0,
            "max_steps": 100,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "completion_only_loss": True,
        },
        # For weights that know nothing, or for models of a few million parameters.
        "scratch": {
            "num_train_epochs": 1.0,
            "max_steps": -1,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "weight_decay": 0.1,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "completion_only_loss": True,
        },
    }
)


def _refusal(name: str) -> str | None:
    return settings.refusal(name, OWN, OWN_PREFIXES)


def _load() -> type:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig


def _attempt(settings: Settings) -> object:
    from prefreg.training.sft.sft_trainer import sft_config

    return sft_config(settings, output_dir="unused", seed=0, max_length=2)


SFT = Family("SFTConfig", PRESETS, "paper", _refusal, _load, _attempt)


SCHEMA = 1
_SMALL_FILES_BYTES = 1 << 24  # the tokenizer, the record, and the file system's own

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SFTResult:
    """A base model that was trained, with the record that lies in its folder."""

    identity: BaseIdentity
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A run up to its training."""

    raw: RawModel
    settings: Settings
    tokenizer: "PreTrainedTokenizerBase"
    template: ChatTemplate | None
    """None where no example has messages, so that no template is learnt."""
    examples: InstructionSet
    train: AnswerSet
    heldout: AnswerSet
    max_length: int

    @property
    def audit(self) -> InstructionAudit:
        """Return the counts, with those of long examples."""
        return replace(
            self.examples.audit,
            train=len(self.train.answers),
            heldout=len(self.heldout.answers),
            dropped_long=self.train.dropped_long + self.heldout.dropped_long,
            truncated=self.train.truncated + self.heldout.truncated,
        )


def fine_tune_base(
    access: Access,
    request: SFTRequest,
    progress: Progress | None = None,
    note: Note | None = None,
) -> SFTResult:
    """Train θ_base, write its folder and make it known; the folder appears whole or not at all."""
    started = time.perf_counter()
    with quiet():
        run = _prepare(request, note)
        model = run.raw.load(request.seed)
        _check_memory(model, run)
        size = model.num_parameters() * run.raw.dtype.itemsize
        with new_folder(
            request.output,
            needed=size + _SMALL_FILES_BYTES,
            overwrite=None,
            keep=[run.raw.path],
        ) as folder:
            before, curve, after = _train(run, model, request.seed, progress)
            _write(folder, run, model)
            record = _record(request, run, curve, (before, after))
            record["weights"] = _moved(folder, run)
            record["seconds"] = time.perf_counter() - started
            text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
            write_file(folder / RECIPE_FILE, text.encode())
    identity = identify(resolve_base(str(request.output)))
    with access.writing() as store:
        store.register_base(identity)
    if note is not None and before is not None and after is not None and not after < before:
        note(
            f"The held-out loss did not fall ({before:.3f} to {after:.3f} nats a token): raise the "
            "number of steps or learning_rate, or check the data."
        )
    return SFTResult(identity, record)


def _prepare(request: SFTRequest, note: Note | None) -> _Prepared:
    raw = _start(request)
    scratch = SFT.presets["scratch"] if raw.base is None else None
    settings = resolve_settings(
        family=SFT,
        assignments=request.settings,
        config=request.config,
        preset=request.preset,
        default=scratch,
        max_length=request.max_length,
    )
    tokenizer = load_tokenizer(raw)
    context, vocabulary = load_limits(raw)
    max_length = settings.max_length(context)
    check_max_length(max_length, context)
    examples = read_instructions(request.data, limit=request.limit, heldout=request.heldout)
    every = (*examples.train, *examples.heldout)
    spoken = any(not isinstance(example.prompt, str) for example in every)
    template = choose_template(tokenizer, request.chat_template) if spoken else None
    if template is not None and template.origin == "plain" and note is not None:
        note(
            f"{raw.name} has no chat template: it gets a plain one with headings "
            "(give another with --chat-template FILE)."
        )
    train, heldout = (
        tokenize_answers(
            part, tokenizer, max_length=max_length, policy=request.too_long, vocabulary=vocabulary
        )
        for part in (examples.train, examples.heldout)
    )
    if not train.answers:
        raise DataError(
            f"No example of {request.data} fits into {max_length} tokens: raise --max-length or "
            "shorten the texts."
        )
    if note is not None:
        for sentence in train.manner.notes("examples"):
            note(sentence)
    return _Prepared(raw, settings, tokenizer, template, examples, train, heldout, max_length)


def _start(request: SFTRequest) -> RawModel:
    if (request.base is None) == (request.from_config is None):
        raise UsageError("Give either --base, whose weights are the start, or --from-config.")
    if request.base is not None:
        return find_raw(request.base)
    assert request.from_config is not None  # one of the two is there
    return random_raw(request.from_config)


def _check_memory(model: "PreTrainedModel", run: _Prepared) -> None:
    need = estimate_memory(model.config, model.num_parameters(), run.settings, run.max_length)
    # The estimate is for pairs, which have two answers, and for poles, which are compared.
    check_memory(replace(need, activations=need.activations // 2, copies=0))


def _train(
    run: _Prepared, model: "PreTrainedModel", seed: int, progress: Progress | None
) -> tuple[float | None, list[Point], float | None]:
    """Train, and score the held-out answers before and after."""

    def score(stage: str) -> float | None:
        if not run.heldout.answers:
            return None
        steps = steps_of(progress, stage)
        return answer_loss(
            model, run.heldout.answers, padding=padding_id(run.tokenizer), progress=steps
        )

    before = score("held-out loss before")
    curve = fine_tune(
        model,
        run.tokenizer,
        run.train.answers,
        settings=run.settings,
        max_length=run.max_length,
        seed=seed,
        progress=steps_of(progress, "fine-tuning"),
    )
    after = score("held-out loss after")
    if after is not None and not after < float("inf"):
        raise TrainingError(f"The held-out loss is {after} after training: lower learning_rate.")
    return before, curve, after


def _write(folder: Path, run: _Prepared, model: "PreTrainedModel") -> None:
    """Write a plain checkpoint: what lay beside the raw weights stays as it was, byte for byte."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to("cpu", run.raw.dtype)
    model.config.dtype = run.raw.dtype
    model.save_pretrained(folder)
    for name, data in run.raw.companions().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    if run.template is not None and run.template.added is not None:
        (folder / TEMPLATE_FILE).write_text(run.template.added, encoding="utf-8")


def _moved(folder: Path, run: _Prepared) -> str:
    """Return the fingerprint of the weights, which must not be those of the start."""
    weights = resolve_base(str(folder)).fingerprint.weights
    if weights == run.raw.describe()["weights"]:
        raise TrainingError(
            f"Training changed no weight of {run.raw.name}: raise the number of steps (the first "
            "ones warm up) or learning_rate."
        )
    return weights


def _record(
    request: SFTRequest,
    run: _Prepared,
    curve: Sequence[Point],
    losses: tuple[float | None, float | None],
) -> dict[str, Any]:
    before, after = losses
    return {
        "schema": SCHEMA,
        "kind": "sft",
        "from": run.raw.describe(),
        "chat_template": _describe_template(request, run.template),
        "data": {
            "file": request.data.name,
            "heldout_file": request.heldout.name if request.heldout else None,
            "forms": list(run.examples.forms),
            "fingerprint": run.examples.fingerprint,
            "renderings": sorted(run.train.renderings),
            "audit": run.audit.to_json(),
            "tokens": _count(run.train.answers),
        },
        "training": {
            "seed": request.seed,
            "steps": curve[-1].step if curve else 0,
            "settings": run.settings.to_json() | {"max_length": run.max_length},
        },
        "heldout_loss": {"before": before, "after": after},
        "curve": [asdict(point) for point in curve],
        "environment": {"packages": package_versions(), "hardware": hardware()},
    }


def _describe_template(request: SFTRequest, template: ChatTemplate | None) -> dict[str, Any] | None:
    if template is None:
        return None
    added = template.added
    return {
        "origin": template.origin,
        "file": request.chat_template.name if request.chat_template else None,
        "sha256": hash_bytes(added.encode()) if added is not None else None,
    }


def _count(answers: Sequence[TokenAnswer]) -> dict[str, int]:
    learnt = sum(len(answer.answer_ids) for answer in answers)
    return {"all": sum(map(len, answers)), "answers": learnt}
