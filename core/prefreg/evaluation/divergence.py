"""KL(π_η ‖ π_0) on samples of π_η, with the whole vocabulary at every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from prefreg.models.generation import Answer
from prefreg.models.padded import length, step_inputs
from prefreg.models.threads import on_suited_threads

_LOGITS = 1 << 25
"""Logits of one model in memory at a time, 128 MiB in float32."""


@on_suited_threads
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
    order = sorted(range(len(answers)), key=lambda index: length(answers[index]))
    vocabulary = model.config.get_text_config().vocab_size
    start = 0
    while start < len(order):
        batch = order[start : start + batch_size]
        while len(batch) > 1 and len(batch) * length(answers[batch[-1]]) * vocabulary > _LOGITS:
            batch = batch[: len(batch) // 2]
        nats = _score(model, reference, [answers[index] for index in batch])
        for index, value in zip(batch, nats, strict=True):
            found[index] = value
        start += len(batch)
    return found


def _score(
    model: PreTrainedModel, reference: Mapping[str, torch.Tensor], batch: Sequence[Answer]
) -> list[float]:
    inputs, steps = step_inputs(model, batch)
    kept = steps.shape[1]
    turned = model(**inputs).logits[:, -kept:].float().log_softmax(2)
    plain = functional_call(model, dict(reference), (), inputs).logits
    base = plain[:, -kept:].float().log_softmax(2)
    # A token that π_η cannot say adds nothing, and 0 · −∞ is not that.
    terms = (turned.exp() * (turned - base)).nan_to_num(0.0, posinf=float("inf"))
    nats = terms.double().sum(2).clamp(min=0).cpu()
    return [float(value) for value in nats.masked_fill(~steps, 0).sum(1)]


@dataclass(frozen=True, slots=True)
class Answers:
    """Sampled answers to the prompts of a run, in their order."""

    texts: list[str]
    tokens: list[int]
    nats: list[float]
    """KL(π_η ‖ π_0) over the steps of each answer; all 0 for the base itself."""
    ended: list[bool]


@dataclass(frozen=True, slots=True)
class PairScores:
    """Log-probabilities of both answers of the held-out pairs of an axis."""

    kept: list[int]
    """Positions of the pairs that fit the context."""
    chosen: list[float]
    rejected: list[float]
    chosen_tokens: list[int]
    rejected_tokens: list[int]
