"""Generate answers in batches of similar length, reproducibly."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from prefreg.data.rendering import end_id, padding_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


def generation_config(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    **more: Any,
) -> GenerationConfig:
    """Say how answers are drawn; temperature 0 takes the likeliest token each time.

    Raises:
        BaseModelError: The tokenizer has no token that ends an answer.
    """
    # A chat model may end its turns with other tokens than the tokenizer's own.
    named: Any = getattr(model.generation_config, "eos_token_id", None)
    ends = {end_id(tokenizer), *(named if isinstance(named, list) else [named])} - {None}
    drawn: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature > 0
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


def generate(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    seed: int,
    batch_size: int = 128,
    progress: Progress | None = None,
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
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    make: Any = model.generate
    output = make(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
    )
    return [_cut(row[width:].tolist(), config.eos_token_id) for row in output]


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    end = next((at for at, token in enumerate(ids) if token in ends), None)
    return ids if end is None else ids[: end + 1]
