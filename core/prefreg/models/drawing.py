"""Draw answers whose chance is the same at every setting, so that settings differ by less noise.

The draw of a prompt's token at a step depends on the seed, the prompts and the step alone, not on
the weights (common random numbers): two settings give the same answer wherever both agree, and the
difference of their figures has the variance of what they disagree on. Rows leave a batch when they
have ended.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from prefreg.models.loading import no_numbers
from prefreg.models.threads import on_suited_threads
from prefreg.progress import Steps

_CROWDED = 0.8
"""A batch is made smaller once less than this share of its rows goes on."""
_BLOCK = 64
"""Rows that share a generator; a CPU takes as many at a time (its caches), a GPU more."""
_ON_GPU = 16
"""Blocks at a time on a GPU."""


@on_suited_threads
@torch.inference_mode()
def draw(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    seed: int,
    progress: Steps | None = None,
) -> list[list[int]]:
    """Answer every prompt once at temperature 1, in tokens; the last is the one that ends it.

    Of `config` count the new tokens, the padding and the ends.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    answers: dict[int, list[int]] = {}
    batch_size = _BLOCK * (_ON_GPU if model.device.type == "cuda" else 1)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        blocks = range(start, start + len(batch), _BLOCK)
        chance = [np.random.default_rng((abs(seed), block)) for block in blocks]
        rows = [prompts[place] for place in batch]
        drawn = _draw_batch(model, rows, config, chance)
        answers |= dict(zip(batch, drawn, strict=True))
        if progress is not None:
            progress(start + len(batch), len(order))
    return [answers[place] for place in range(len(prompts))]


def _draw_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    chance: Sequence[np.random.Generator],
) -> list[list[int]]:
    pad, ends = config.pad_token_id, config.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    device, forward = model.device, inspect.signature(model.forward).parameters
    ids, mask, stop = ids.to(device), mask.to(device), torch.tensor(list(ends), device=device)
    place = (mask.cumsum(1) - 1).clamp(min=0)
    going = torch.arange(len(prompts))
    answers: list[list[int]] = [[] for _ in prompts]
    cache: Any = None
    for step in range(config.max_new_tokens):
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
        if "position_ids" in forward:
            inputs["position_ids"] = place
        if step == 0 and "logits_to_keep" in forward:
            inputs["logits_to_keep"] = 1
        output = model(**inputs, past_key_values=cache)
        cache = output.past_key_values
        logits = output.logits[:, -1].float()
        # The largest of p/e with e exponential is drawn by p; two p close to each other mostly
        # agree on it. Noise is drawn for all rows, gone ones too, so that it stays that of a row.
        shape = (_BLOCK, logits.shape[1])
        drawn = [each.standard_exponential(shape, dtype=np.float32) for each in chance]
        noise = torch.from_numpy(np.concatenate(drawn))[going]
        scores = logits - noise.to(device).log_()
        if bool(scores.isnan().any()):
            raise no_numbers(model)
        tokens = scores.argmax(1)
        for row, token in zip(going.tolist(), tokens.tolist(), strict=True):
            answers[row].append(token)
        alive = ~torch.isin(tokens, stop)
        if not bool(alive.any()):
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        place = place[:, -1:] + 1
        ids = tokens[:, None]
        if float(alive.float().mean()) < _CROWDED or step == 0:
            kept = alive.nonzero().squeeze(1)
            ids, mask, place = ids[kept], mask[kept], place[kept]
            going = going[kept.cpu()]
            cache.batch_select_indices(kept)
    return [_until(answer, ends) for answer in answers]


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Cut what was drawn behind the end."""
    end = next((at for at, token in enumerate(ids) if token in ends), None)
    return ids if end is None else ids[: end + 1]
