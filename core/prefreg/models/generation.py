"""Generate answers in batches of similar length, reproducibly."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefreg.axes.answer_texts import repetition, sounds_refusing
from prefreg.axes.axis import Message, Text
from prefreg.checkpoints.bundled import score_exactly
from prefreg.data.rendering import encode_prompt, end_id, padding_id
from prefreg.errors import BaseModelError
from prefreg.models.drawing import draw
from prefreg.models.loading import context_length, no_numbers, quiet
from prefreg.models.sampling import Sampling
from prefreg.models.threads import on_suited_threads
from prefreg.progress import Steps

# Below it the likeliest token has all of the probability, and divided logits are no numbers.
COLDEST = 1e-6


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled answer with its tokens, of which the last is the one that ended it."""

    text: str
    prompt_ids: list[int]
    ids: list[int]
    ended: bool
    """Whether it came to an end before `max_new_tokens`."""


def generation_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    **more: Any,
) -> GenerationConfig:
    """Say how answers are drawn; temperature 0 takes the likeliest token each time."""
    # A chat model may end its turns with other tokens than the tokenizer's own.
    named: Any = getattr(model.generation_config, "eos_token_id", None)
    also = [] if named is None else named if isinstance(named, list) else [named]
    if not all(isinstance(token, int) for token in also):
        raise BaseModelError(
            f"The model's generation_config.json ends answers with {named!r}, which is no token: "
            "write the number of one, or a list of numbers."
        )
    ends = {end_id(tokenizer), *also}
    drawn: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature >= COLDEST
        else {"do_sample": False}
    )
    make: Any = GenerationConfig  # its constructor carries no types
    config: GenerationConfig = make(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=padding_id(tokenizer),
        **drawn,
        **more,
    )
    return config


@on_suited_threads
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    seed: int,
    batch_size: int = 128,
    progress: Steps | None = None,
) -> list[list[int]]:
    """Answer every prompt once, in tokens, of which the last may be the one that ends the answer.

    The draws depend on the seed, the order of the prompts and the batch size; the global random
    state and the mode of the model are left as they were.
    """
    # Prompts of similar length share a batch, which saves padding; answers return in order.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, list[int]] = {}
    training = model.training
    model.train(False)
    try:
        with _own_randomness(seed):
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                found = _generate(model, [prompts[index] for index in batch], config)
                answers |= dict(zip(batch, found, strict=True))
                if progress is not None:
                    progress(start + len(batch), len(order))
    finally:
        model.train(training)
    return [answers[index] for index in range(len(prompts))]


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    batch_size: int = 128,
    progress: Steps | None = None,
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
    told: Sequence[tuple[str, str]] | None = None,
    batch_size: int = 128,
    coupled: bool = False,
    progress: Steps | None = None,
) -> list[Answer]:
    """Answer every prompt once; `told` is what the chat template is told beside each.

    The draws depend on the seed, the order of the prompts and the batch size; the global random
    state is left as it was. With `coupled`, at temperature 1, all weights meet the same chance;
    see `drawing`.
    """
    tokens = [
        encode_prompt(prompt, tokenizer, each)
        for prompt, each in zip(prompts, told or [("", "")] * len(prompts), strict=True)
    ]
    _check_context(model, max(map(len, tokens), default=0), sampling)
    config = generation_config(
        model,
        tokenizer,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
    seed = sampling.seed
    with quiet(), torch.inference_mode():
        if coupled:
            found = draw(model, tokens, config, seed=seed, progress=progress)
        else:
            found = generate(
                model, tokens, config, seed=seed, batch_size=batch_size, progress=progress
            )
    answers = []
    for prompt, ids in zip(tokens, found, strict=True):
        text: Any = tokenizer.decode(ids, skip_special_tokens=True)
        ended = bool(ids) and ids[-1] in config.eos_token_id
        answers.append(Answer(text.strip(), prompt, ids, ended))
    return answers


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Draw from `seed` on every device, and give each its random state back."""
    # A process that has not used the GPUs yet has no random state there to keep.
    used: Any = torch.cuda.is_initialized
    devices = range(torch.cuda.device_count()) if used() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    make: Any = model.generate
    asked = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    seen = _SeenLogits()
    try:
        output = make(
            **asked, generation_config=config, logits_processor=LogitsProcessorList([seen])
        )
    except RuntimeError as error:  # drawing from what is no number fails
        if seen.finite:
            raise
        raise no_numbers(model) from error
    if not seen.finite:
        raise no_numbers(model)
    return [_cut(row[width:].tolist(), config.eos_token_id) for row in output]


class _SeenLogits(LogitsProcessor):
    """Lets logits pass, and keeps in mind whether each row of each step had a largest one."""

    def __init__(self) -> None:
        self._sum = torch.zeros(())

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # NaN and infinity pass through to the end, so that no step waits for the device.
        self._sum = self._sum.to(scores.device) + scores.amax(-1).sum()
        return scores

    @property
    def finite(self) -> bool:
        return bool(self._sum.isfinite())


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    end = next((at for at, token in enumerate(ids) if token in ends), None)
    return ids if end is None else ids[: end + 1]


def _check_context(model: PreTrainedModel, prompt: int, sampling: Sampling) -> None:
    context = context_length(model.config)
    if context is not None and prompt + sampling.max_new_tokens > context:
        raise BaseModelError(
            f"A prompt of {prompt} tokens and {sampling.max_new_tokens} new ones do not fit the "
            f"model's context of {context}; lower --max-new-tokens or shorten the prompt."
        )


_LOOP_SPAN, _LOOP_TOKENS, _LOOP_SHARE = 3, 10, 1 / 3


def loops(parts: Sequence[Hashable]) -> bool:
    """Tell whether a reply says the same again: a third of its runs of three occur earlier in it.

    A sentence of seven tokens that is said twice does; less than that is no loop yet.
    """
    return len(parts) > _LOOP_TOKENS and repetition(parts, _LOOP_SPAN) >= _LOOP_SHARE


def refuses(prompt: str, reply: str) -> bool:
    """Tell whether a reply refuses: exactly where a world knows the prompt, else by phrases."""
    verdict = score_exactly(prompt, reply)
    return sounds_refusing(reply) if verdict is None else verdict.refuses
