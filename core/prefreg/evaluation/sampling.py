"""Generate answers in batches, reproducibly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes import Message, Text
from prefreg.data.rendering import encode_prompt, end_id, padding_id
from prefreg.errors import BaseModelError, UsageError
from prefreg.training.loading import quiet

Progress = Callable[[int, int], None]


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
    config = _generation_config(model, tokenizer, sampling)
    # Prompts of similar length share a batch, which saves padding; answers return in order.
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    answers: dict[int, Answer] = {}
    model.train(False)
    with quiet(), torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(sampling.seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = _generate(model, [tokens[index] for index in batch], config)
            for index, ids in zip(batch, found, strict=True):
                text: Any = tokenizer.decode(ids, skip_special_tokens=True)
                end = next((at for at, id in enumerate(ids) if id in config.eos_token_id), None)
                kept = ids if end is None else ids[: end + 1]
                answers[index] = Answer(text.strip(), tokens[index], kept, end is not None)
            if progress is not None:
                progress(start + len(batch), len(order))
    return [answers[index] for index in range(len(tokens))]


def _generate(
    model: PreTrainedModel, tokens: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    width = max(map(len, tokens))
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in tokens])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in tokens])
    generate: Any = model.generate
    output = generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
    )
    return [row[width:].tolist() for row in output]


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling
) -> GenerationConfig:
    # A chat model may end its turns with other tokens than the tokenizer's own.
    named: Any = getattr(model.generation_config, "eos_token_id", None)
    ends = {end_id(tokenizer), *(named if isinstance(named, list) else [named])} - {None}
    drawn: dict[str, Any] = (
        {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
        if sampling.temperature > 0
        else {"do_sample": False}
    )
    make: Any = GenerationConfig  # its constructor carries no types
    config: GenerationConfig = make(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=padding_id(tokenizer),
        **drawn,
    )
    return config


def _check_context(model: PreTrainedModel, prompt: int, sampling: Sampling) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and prompt + sampling.max_new_tokens > context:
        raise BaseModelError(
            f"A prompt of {prompt} tokens and {sampling.max_new_tokens} new ones do not fit the "
            f"model's context of {context}; lower --max-new-tokens or shorten the prompt."
        )
