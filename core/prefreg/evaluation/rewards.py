"""Score answers with a reward or cost model: any sequence classifier in safetensors."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefreg.axes.axis import Message, Text, plain_text
from prefreg.checkpoints import BaseModel
from prefreg.data.templates import ending
from prefreg.errors import BaseModelError, PrefregError, reason
from prefreg.models.loading import context_length, load_tokenizer, on_gpu, quiet
from prefreg.progress import Steps

_BEAVER = ("LlamaForScore", "LlamaModelForScore")
"""What PKU's safe-rlhf calls a Llama with a linear score of the last token."""
_BEAVER_FORM = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{answer}"


class RewardModel:
    """A loaded reward or cost model; what it gives is a number, larger for more of it."""

    def __init__(self, found: BaseModel) -> None:
        """Load a model that was found."""
        self.name = found.name
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(found)
        self._beaver, model = _load(found)
        self._model = on_gpu(model)
        self._limit = context_length(self._model.config)

    def score(
        self,
        prompts: Sequence[Text],
        answers: Sequence[str],
        *,
        batch_size: int = 16,
        progress: Steps | None = None,
    ) -> list[float]:
        """Score each answer to its prompt."""
        ids = [self._encode(*both) for both in zip(prompts, answers, strict=True)]
        longest = max(map(len, ids), default=0)
        if self._limit is not None and longest > self._limit:
            raise BaseModelError(
                f"An answer of {longest} tokens with its prompt does not fit the context of "
                f"{self._limit} of the reward model {self.name}; lower --max-new-tokens."
            )
        scores = [0.0] * len(ids)
        order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for place, value in zip(batch, self._score([ids[at] for at in batch]), strict=True):
                if not math.isfinite(value):
                    raise BaseModelError(f"The reward model {self.name} gives {value}, no score.")
                scores[place] = value
            if progress is not None:
                progress(start + len(batch), len(order))
        return scores

    @torch.inference_mode()
    def _score(self, batch: Sequence[list[int]]) -> list[float]:
        # One row at a time where no padding is known: the classifier finds the last token by it.
        pad = self._model.config.pad_token_id
        if pad is None and len(batch) > 1:
            return [value for row in batch for value in self._score([row])]
        width = max(map(len, batch))
        fill = 0 if pad is None else pad
        ids = torch.tensor([row + [fill] * (width - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        device = self._model.device
        found = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return [float(value) for value in found.float()[:, 0]]

    def _encode(self, prompt: Text, answer: str) -> list[int]:
        tokenizer: Any = self._tokenizer
        if self._beaver:
            text = _BEAVER_FORM.format(prompt=plain_text(prompt), answer=answer)
            return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if isinstance(prompt, str):
            ids: list[int] = tokenizer(prompt + answer)["input_ids"]
            return ids
        turns = [turn.to_json() for turn in (*prompt, Message("assistant", answer))]
        if tokenizer.chat_template:
            try:
                with ending(tokenizer):
                    text = tokenizer.apply_chat_template(turns, tokenize=False)
            except PrefregError:
                raise
            except Exception as error:  # a template may raise anything
                raise BaseModelError(
                    f"The chat template of the reward model {self.name} refused an answer: "
                    f"{reason(error)}."
                ) from error
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        # Encoders take the answer as the second of two texts.
        return list(tokenizer(plain_text(prompt), answer)["input_ids"])


def _load(found: BaseModel) -> tuple[bool, PreTrainedModel]:
    loader: Any = AutoModelForSequenceClassification
    options: dict[str, Any] = {}
    try:
        config = AutoConfig.from_pretrained(
            found.path, local_files_only=True, trust_remote_code=False
        )
        beaver = bool({*(config.architectures or ())} & {*_BEAVER})
        if beaver:
            loader = LlamaForSequenceClassification
            options = {"key_mapping": {r"^score_head\.": "score."}, "num_labels": 1}
        with quiet():
            model, info = loader.from_pretrained(
                found.path,
                dtype="auto",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # whatever transformers makes of a folder
        line = " ".join(str(error).split())[:300]
        raise BaseModelError(f"The reward model {found.name} cannot be loaded: {line}") from error
    if lacking := sorted(info["missing_keys"]):
        raise BaseModelError(
            f"{found.name} is no reward model: it lacks {', '.join(lacking[:3])}. Give a sequence "
            "classifier with one output."
        )
    if model.config.num_labels != 1:
        raise BaseModelError(
            f"{found.name} has {model.config.num_labels} outputs; a reward model has one."
        )
    model.train(False)
    return beaver, model
