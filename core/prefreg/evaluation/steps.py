"""Answers laid out for one forward pass that predicts every step of each."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from prefreg.evaluation.sampling import Answer


def length(answer: Answer) -> int:
    """Return the tokens of an answer with its prompt."""
    return len(answer.prompt_ids) + len(answer.ids)


def step_inputs(
    model: PreTrainedModel, batch: Sequence[Answer]
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the arguments of the model, and which of the last places of its logits are steps.

    The mask has as many columns as logits are needed; a model that cannot leave the others out
    returns more, of which the last are meant.
    """
    width = max(map(length, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    steps = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(batch):
        prompt, end = len(answer.prompt_ids), length(answer)
        ids[row, :end] = torch.tensor([*answer.prompt_ids, *answer.ids])
        mask[row, :end] = 1
        # The token at one place is predicted at the place before it.
        steps[row, prompt - 1 : end - 1] = True
    first = min(len(answer.prompt_ids) for answer in batch) - 1
    inputs: dict[str, Any] = {
        "input_ids": ids.to(model.device),
        "attention_mask": mask.to(model.device),
        "use_cache": False,
    }
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = width - first
    return inputs, steps[:, first:]
