"""KL(π_η ‖ π_0) on samples of π_η, with the whole vocabulary at every step."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from prefreg.evaluation.sampling import Answer

_LOGITS = 1 << 25
"""Logits of one model in memory at a time, 128 MiB in float32."""


@torch.inference_mode()
def divergences(
    model: PreTrainedModel,
    reference: Mapping[str, torch.Tensor],
    answers: Sequence[Answer],
    *,
    batch_size: int = 128,
) -> list[float]:
    """Return the nats of each answer: the sum over its steps of KL(π_η ‖ π_0) at that step.

    `model` has the weights of π_η; `reference` holds those of π_0 by their names in memory, and is
    put in their place for the length of a call, so neither is copied.
    """
    found = [0.0] * len(answers)
    order = sorted(range(len(answers)), key=lambda index: _length(answers[index]))
    vocabulary = model.config.get_text_config().vocab_size
    start = 0
    while start < len(order):
        batch = order[start : start + batch_size]
        while len(batch) > 1 and len(batch) * _length(answers[batch[-1]]) * vocabulary > _LOGITS:
            batch = batch[: len(batch) // 2]
        nats = _score(model, reference, [answers[index] for index in batch])
        for index, value in zip(batch, nats, strict=True):
            found[index] = value
        start += len(batch)
    return found


def _length(answer: Answer) -> int:
    return len(answer.prompt_ids) + len(answer.ids)


def _score(
    model: PreTrainedModel, reference: Mapping[str, torch.Tensor], batch: Sequence[Answer]
) -> list[float]:
    width = max(map(_length, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    steps = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(batch):
        prompt, length = len(answer.prompt_ids), _length(answer)
        ids[row, :length] = torch.tensor([*answer.prompt_ids, *answer.ids])
        mask[row, :length] = 1
        # The token at one place is predicted at the place before it.
        steps[row, prompt - 1 : length - 1] = True
    first = min(len(answer.prompt_ids) for answer in batch) - 1
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = width - first
    turned = model(**inputs, **options).logits[:, first - width :].float().log_softmax(2)
    plain = functional_call(model, dict(reference), (), {**inputs, **options}).logits
    base = plain[:, first - width :].float().log_softmax(2)
    # A token that π_η cannot say adds nothing, and 0 · −∞ is not that.
    terms = (turned.exp() * (turned - base)).nan_to_num(0.0, posinf=float("inf"))
    nats = terms.double().sum(2).clamp(min=0).cpu()
    return [float(value) for value in nats.masked_fill(~steps[:, first:], 0).sum(1)]
