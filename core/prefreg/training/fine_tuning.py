"""Fine-tune a raw model on instructions: rows → answers → tokens → θ_base, a known base."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.checkpoint import (
    CONFIG_FILE,
    companions,
    read_companion,
    read_json_object,
    refuse_quantised,
)
from prefreg.composition.output import RECIPE_FILE, new_folder, write_file
from prefreg.composition.resolve import identify
from prefreg.data.instructions import InstructionAudit, InstructionSet, read_instructions
from prefreg.data.rendering import padding_id
from prefreg.data.tokens import (
    AnswerSet,
    TokenAnswer,
    check_max_length,
    tokenise_answers,
)
from prefreg.errors import BaseModelError, DataError, TrainingError, UsageError
from prefreg.files import hash_bytes
from prefreg.models.loading import (
    load_limits,
    load_model,
    load_tokenizer,
    quiet,
    with_sound_defaults,
)
from prefreg.models.threads import suited_threads
from prefreg.progress import Progress, steps_of
from prefreg.registry import Access, BaseIdentity
from prefreg.training.axis_request import SFTRequest
from prefreg.training.callbacks import LossPoint
from prefreg.training.resources import check_memory, estimate_memory, hardware, package_versions
from prefreg.training.settings import Settings, resolve_settings
from prefreg.training.sft_trainer import SFT, answer_loss, fine_tune
from prefreg.values import read_small

SCHEMA = 1
_SMALL_FILES_BYTES = 1 << 24  # the tokenizer, the record, and the file system's own

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SFTResult:
    """A base model that was trained, with the record that lies in its folder."""

    identity: BaseIdentity
    record: dict[str, Any]


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class RawModel:
    """The place of a tokenizer and a configuration, with weights or without."""

    name: str
    path: Path
    base: BaseModel | None
    """The model whose weights are the start, or None where they are random."""

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are stored in."""
        return _DTYPES.get(self.base.fingerprint.dtype if self.base else "", torch.float32)

    def load(self, seed: int) -> PreTrainedModel:
        """Load the weights, or draw them from the seed, in float32."""
        if self.base is not None:
            return load_model(self.base)
        set_seed(seed)
        maker: Any = AutoModelForCausalLM
        try:
            config = AutoConfig.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
            model: PreTrainedModel = maker.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BaseModelError(
                f"No causal language model can be made of {self.path / CONFIG_FILE}: {reason:.300}"
            ) from error
        return with_sound_defaults(model)

    def companions(self) -> dict[str, bytes]:
        """Read the files that belong to the model beside its weights.

        Its configuration is one of them, unless the weights are random: they may differ in dtype.
        """
        files = [*companions(self.path), *([Path(CONFIG_FILE)] if self.base else [])]
        return {path.as_posix(): read_companion(self.path / path) for path in files}

    def to_json(self) -> dict[str, Any]:
        """Return where the weights come from, in a form that JSON can hold."""
        if self.base is None:
            return {"name": None, "revision": None, "weights": None}
        return {
            "name": self.base.name,
            "revision": self.base.revision,
            "weights": self.base.fingerprint.weights,
        }


TEMPLATE_FILE = "chat_template.jinja"

PLAIN = """\
{{ bos_token or '' }}{% for message in messages %}\
{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] | trim }}\
{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}
"""
"""Headings in words, which every tokenizer can write; the answer ends with the end of sequence."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Where a template came from, and what it is where it is new to the tokenizer."""

    origin: Literal["tokenizer", "plain", "file"]
    file: str | None = None
    added: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded about it."""
        digest = None if self.added is None else hash_bytes(self.added.encode())
        return {"origin": self.origin, "file": self.file, "sha256": digest}


def choose_template(tokenizer: PreTrainedTokenizerBase, file: Path | None) -> ChatTemplate:
    """Give a tokenizer the template of a file, else keep its own, else give it the plain one."""
    if file is None and tokenizer.chat_template:
        return ChatTemplate("tokenizer")
    if file is None:
        chosen = ChatTemplate("plain", added=PLAIN)
    else:
        try:
            chosen = ChatTemplate("file", file.name, read_small(file, UsageError).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UsageError(f"The chat template {file} cannot be read: {error}.") from error
    tokenizer.chat_template = chosen.added
    return chosen


@dataclass(frozen=True, slots=True)
class SFTRun:
    """A run up to its training, handed on whole."""

    request: SFTRequest
    raw: RawModel
    settings: Settings
    tokenizer: PreTrainedTokenizerBase
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
        with (
            suited_threads(model),
            new_folder(
                request.output,
                needed=size + _SMALL_FILES_BYTES,
                overwrite=None,
                keep=[run.raw.path],
            ) as folder,
        ):
            before, curve, after = _train(run, model, progress)
            _write(folder, run, model)
            record = _record(run, curve, {"before": before, "after": after})
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


def _prepare(request: SFTRequest, note: Note | None) -> SFTRun:
    raw = _find_raw(request)
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
        tokenise_answers(
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
    return SFTRun(request, raw, settings, tokenizer, template, examples, train, heldout, max_length)


def _find_raw(request: SFTRequest) -> RawModel:
    """Find the model whose weights are the start, or a configuration with its tokenizer."""
    if (request.base is None) == (request.from_config is None):
        raise UsageError("Give either --base, whose weights are the start, or --from-config.")
    if request.base is not None:
        found = resolve_base(request.base)
        return RawModel(str(found), found.path, found)
    config = request.from_config
    assert config is not None  # one of the two is there
    folder = config if config.is_dir() else config.parent
    if config.name != CONFIG_FILE and not (folder / CONFIG_FILE).is_file():
        raise BaseModelError(
            f"{config} is no {CONFIG_FILE} and no folder with one. Name a transformers "
            f"{CONFIG_FILE} that has its tokenizer's files beside it."
        )
    folder = folder.resolve()
    values = read_json_object(
        folder / CONFIG_FILE, absent="no model", advice="Fetch it again.", error=BaseModelError
    )
    refuse_quantised(folder, values)
    return RawModel(str(folder), folder, None)


def _check_memory(model: PreTrainedModel, run: SFTRun) -> None:
    need = estimate_memory(model.config, model.num_parameters(), run.settings, run.max_length)
    # The estimate is for pairs, which have two answers, and for poles, which are compared.
    check_memory(replace(need, activations=need.activations // 2, copies=0))


def _train(
    run: SFTRun, model: PreTrainedModel, progress: Progress | None
) -> tuple[float | None, list[LossPoint], float | None]:
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
        seed=run.request.seed,
        progress=steps_of(progress, "fine-tuning"),
    )
    after = score("held-out loss after")
    if after is not None and not after < float("inf"):
        raise TrainingError(f"The held-out loss is {after} after training: lower learning_rate.")
    return before, curve, after


def _write(folder: Path, run: SFTRun, model: PreTrainedModel) -> None:
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


def _moved(folder: Path, run: SFTRun) -> str:
    """Return the fingerprint of the weights, which must not be those of the start."""
    weights = resolve_base(str(folder)).fingerprint.weights
    if weights == run.raw.to_json()["weights"]:
        raise TrainingError(
            f"Training changed no weight of {run.raw.name}: raise the number of steps (the first "
            "ones warm up) or learning_rate."
        )
    return weights


def _record(
    run: SFTRun, curve: Sequence[LossPoint], losses: Mapping[str, float | None]
) -> dict[str, Any]:
    request = run.request
    return {
        "schema": SCHEMA,
        "kind": "sft",
        "from": run.raw.to_json(),
        "chat_template": run.template.to_json() if run.template else None,
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
        "heldout_loss": dict(losses),
        "curve": [asdict(point) for point in curve],
        "environment": {"packages": package_versions(), "hardware": hardware()},
    }


def _count(answers: Sequence[TokenAnswer]) -> dict[str, int]:
    learnt = sum(len(answer.answer_ids) for answer in answers)
    return {"all": sum(map(len, answers)), "answers": learnt}
