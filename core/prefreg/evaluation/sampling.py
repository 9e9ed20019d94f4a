"""Generate answers in batches, reproducibly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefreg.errors import BaseModelError, UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn: temperature 0 takes the likeliest token each time."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise UsageError(
                "Sampling needs temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, got "
                f"{self.temperature}, {self.top_p} and {self.max_new_tokens}."
            )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Turn a user's prompt into tokens, through the chat template where there is one."""
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    batch_size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Answer every prompt once.

    The draws depend on the seed, the order of the prompts and the batch size; the global random
    state is left as it was.

    Raises:
        BaseModelError: The prompt and answer do not fit the model's context, or the tokenizer
            has no token that ends an answer.
    """
    tokens = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    _check_context(model, max(map(len, tokens), default=0), sampling)
    config = _generation_config(tokenizer, sampling)
    # Prompts of similar length share a batch, which saves padding; answers return in order.
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    answers = [""] * len(tokens)
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(sampling.seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = _generate(model, [tokens[index] for index in batch], config)
            for index, answer in zip(batch, found, strict=True):
                answers[index] = tokenizer.decode(answer, skip_special_tokens=True).strip()
            if progress is not None:
                progress(start + len(batch), len(order))
    return answers


def _generate(
    model: PreTrainedModel, tokens: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    width = max(map(len, tokens))
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in tokens])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in tokens])
    output: Any = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
    )
    return [row[width:].tolist() for row in output]


def _generation_config(
    tokenizer: PreTrainedTokenizerBase, sampling: Sampling
) -> GenerationConfig:
    end: Any = tokenizer.eos_token_id
    if end is None:
        raise BaseModelError("The tokenizer names no EOS token, so no answer would end.")
    pad: Any = tokenizer.pad_token_id
    drawn: dict[str, Any] = (
        {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.temperature > 0
        else {"do_sample": False}
    )
    if sampling.temperature > 0:
        drawn["top_k"] = 0
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=end,
        pad_token_id=end if pad is None else pad,
        **drawn,
    )


def _check_context(model: PreTrainedModel, prompt: int, sampling: Sampling) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and prompt + sampling.max_new_tokens > context:
        raise BaseModelError(
            f"A prompt of {prompt} tokens and {sampling.max_new_tokens} new ones do not fit the "
            f"model's context of {context}; lower --max-new-tokens or shorten the prompt."
        )
