"""Answers to prompts in words, drawn reproducibly."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes import Message, Text
from prefreg.data.rendering import encode_prompt
from prefreg.errors import BaseModelError, UsageError
from prefreg.scoring.generating import Progress, generate, generation_config
from prefreg.training.loading import quiet


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn: temperature 0 takes the likeliest token each time."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Written so that a temperature that is not a number fits nowhere.
        if not (0 <= self.temperature < inf and 0 < self.top_p <= 1 and self.max_new_tokens >= 1):
            raise UsageError(
                "Sampling needs a finite temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, "
                f"got {self.temperature}, {self.top_p} and {self.max_new_tokens}."
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled answer with its tokens, of which the last is the one that ended it."""

    text: str
    prompt_ids: list[int]
    ids: list[int]
    ended: bool
    """Whether it came to an end before `max_new_tokens`."""


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> list[str]:
    """Answer every prompt, a turn of the user, once, and return the texts; see `sample`."""
    turns = [(Message("user", prompt),) for prompt in prompts]
    found = sample(model, tokenizer, turns, sampling, batch_size=batch_size, progress=progress)
    return [answer.text for answer in found]


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    sampling: Sampling,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answer every prompt once.

    The draws depend on the seed, the order of the prompts and the batch size; the global random
    state is left as it was.

    Raises:
        BaseModelError: The prompt and answer do not fit the model's context, or the tokenizer
            has no token that ends an answer.
    """
    tokens = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    _check_context(model, max(map(len, tokens), default=0), sampling)
    config = generation_config(
        model,
        tokenizer,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
    with quiet(), torch.inference_mode():
        found = generate(
            model, tokens, config, seed=sampling.seed, batch_size=batch_size, progress=progress
        )
    answers = []
    for prompt, ids in zip(tokens, found, strict=True):
        text: Any = tokenizer.decode(ids, skip_special_tokens=True)
        ended = bool(ids) and ids[-1] in config.eos_token_id
        answers.append(Answer(text.strip(), prompt, ids, ended))
    return answers


def _check_context(model: PreTrainedModel, prompt: int, sampling: Sampling) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and prompt + sampling.max_new_tokens > context:
        raise BaseModelError(
            f"A prompt of {prompt} tokens and {sampling.max_new_tokens} new ones do not fit the "
            f"model's context of {context}; lower --max-new-tokens or shorten the prompt."
        )
