"""A thin adapter over TRL's SFTTrainer: our tokens, no files, no chatter."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from prefreg.data.rendering import padding_id
from prefreg.data.tokens import TokenAnswer
from prefreg.errors import TrainingError, UsageError
from prefreg.training.settings import Settings
from prefreg.training.trainer import explained, own_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.progress import Steps

_IGNORED = -100
_SCORED_TOKENS = 1 << 13
"""Tokens in a batch that is scored: longer answers come fewer at a time."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step of fine-tuning."""

    step: int
    loss: float
    """Nats a learnt token, over the step's examples."""


def fine_tune(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    answers: Sequence[TokenAnswer],
    *,
    settings: Settings,
    max_length: int,
    seed: int,
    progress: Steps | None = None,
) -> list[Point]:
    """Train `model` in place to give the answers."""
    whole = settings.values.get("completion_only_loss") is False
    recorder = _Recorder(progress)
    with tempfile.TemporaryDirectory(prefix="prefreg-") as folder, explained():
        trainer = SFTTrainer(
            model=model,
            args=sft_config(settings, output_dir=folder, seed=seed, max_length=max_length),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=padding_id(tokenizer)),
            train_dataset=_dataset(answers, whole=whole),
            processing_class=tokenizer,
            callbacks=[recorder],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return recorder.curve


def sft_config(settings: Settings, *, output_dir: str, seed: int, max_length: int) -> SFTConfig:
    """Make TRL's configuration of the user's settings and prefreg's own."""
    values = own_arguments(settings, output_dir=output_dir, seed=seed, max_length=max_length)
    # The labels say what is learnt; the tokens are ours.
    return SFTConfig(**values, dataset_kwargs={"skip_prepare_dataset": True})


@torch.no_grad()
def answer_loss(
    model: "PreTrainedModel",
    answers: Sequence[TokenAnswer],
    *,
    padding: int,
    progress: Steps | None = None,
) -> float:
    """Return the mean loss of the answers' tokens, in nats, each token weighing the same."""
    collate = DataCollatorForLanguageModeling(pad_token_id=padding)
    rows = _dataset(sorted(answers, key=len, reverse=True), whole=False)
    total, tokens, start = 0.0, 0, 0
    training = model.training
    model.train(False)
    try:
        while start < len(rows):
            size = max(1, _SCORED_TOKENS // len(rows[start]["input_ids"]))
            batch = collate([rows[i] for i in range(start, min(start + size, len(rows)))])
            learnt = int((batch["labels"][:, 1:] != _IGNORED).sum())
            loss = model(**{name: part.to(model.device) for name, part in batch.items()}).loss
            total, tokens, start = total + float(loss) * learnt, tokens + learnt, start + size
            if progress:
                progress(min(start, len(rows)), len(rows))
    finally:
        model.train(training)
    return total / tokens


class _Recorder(TrainerCallback):
    """Keep the curve, pass progress on and stop at a loss that is not finite."""

    def __init__(self, progress: Steps | None) -> None:
        self.curve: list[Point] = []
        self._progress = progress

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss, step = float(logs["loss"]), int(state.global_step)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {step} of {state.max_steps}: lower learning_rate."
            )
        self.curve.append(Point(step, loss))
        if self._progress:
            self._progress(step, int(state.max_steps), loss)


def _dataset(answers: Sequence[TokenAnswer], *, whole: bool) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [[*one.prompt_ids, *one.answer_ids] for one in answers],
            "labels": [
                [*(one.prompt_ids if whole else [_IGNORED] * len(one.prompt_ids)), *one.answer_ids]
                for one in answers
            ],
        }
    )


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
    added: str | None


def choose_template(tokenizer: "PreTrainedTokenizerBase", file: Path | None) -> ChatTemplate:
    """Give a tokenizer the template of a file, else keep its own, else give it the plain one."""
    if file is None and tokenizer.chat_template:
        return ChatTemplate("tokenizer", None)
    if file is None:
        text = PLAIN
    else:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The chat template {file} cannot be read: {error}.") from error
    tokenizer.chat_template = text
    return ChatTemplate("plain" if file is None else "file", text)
