"""Each answer in a padded row of its own behind its prompt, as any causal model takes it."""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from prefreg.data.tokens import TokenPair
from prefreg.models.generation import Answer

LOGITS_LIMIT = 1 << 27
"""Logits in memory at a time (512 MiB in float32): a batch is made smaller to stay below."""
OVERHEAD = 80
"""Tokens that take as long as what every further batch costs: measured with a Llama of 17 M
parameters on 2 cores, forward and backward (80 ms, and 1 ms a token)."""

Text = tuple[Sequence[int], Sequence[int]]
"""A prompt and its answer."""


def score_answers(model: PreTrainedModel, pairs: Sequence[TokenPair]) -> list[torch.Tensor]:
    """Return the log-probabilities of each answer's tokens: all chosen, then all rejected."""
    sequences: list[Text] = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    sequences += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    return score_texts(model, sequences)


@torch.no_grad()
def score_texts(model: PreTrainedModel, sequences: Sequence[Text]) -> list[torch.Tensor]:
    """Return the log-probabilities of the tokens of each answer behind its prompt."""
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    fitting = max(1, LOGITS_LIMIT // (longest * model.config.get_text_config().vocab_size))
    return [
        tokens
        for start in range(0, len(sequences), fitting)
        for tokens in _score(model, sequences[start : start + fitting])
    ]


def split_by_length(lengths: Sequence[int], *, tokens: int, at_most: int) -> list[list[int]]:
    """Cut texts, sorted by length, where padding and the number of batches cost least.

    A batch has `at_most` texts, and `tokens` tokens with its padding unless one text alone has
    more. The longest come first: if memory is short, it fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    costs: list[int] = [0]
    starts: list[int] = [0]
    for end in range(1, len(order) + 1):
        best = start = end - 1
        cost = costs[start] + lengths[order[start]]
        while start and end - start < at_most:
            start -= 1
            padded = lengths[order[start]] * (end - start)
            if padded > tokens:
                break
            if costs[start] + padded <= cost:
                best, cost = start, costs[start] + padded
        costs.append(cost + OVERHEAD)
        starts.append(best)
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(starts[cuts[-1]])
    return [order[start:end] for start, end in pairwise(reversed(cuts))]


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
    inputs, ids, first = _padded(model, [(answer.prompt_ids, answer.ids) for answer in batch])
    steps = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(batch):
        # The token at one place is predicted at the place before it.
        steps[row, len(answer.prompt_ids) - 1 : length(answer) - 1] = True
    return inputs, steps[:, first:]


def _score(model: PreTrainedModel, batch: Sequence[Text]) -> list[torch.Tensor]:
    inputs, ids, first = _padded(model, batch)
    logits = model(**inputs).logits[:, first - ids.shape[1] : -1]
    targets = ids[:, first + 1 :].to(model.device)
    picked = logits.gather(2, targets.unsqueeze(2)).squeeze(2).float()
    log_probs = (picked - logits.float().logsumexp(2)).cpu()
    starts = [len(prompt) - 1 - first for prompt, _ in batch]
    return [
        log_probs[row, start : start + len(answer)]
        for row, (start, (_, answer)) in enumerate(zip(starts, batch, strict=True))
    ]


def _padded(
    model: PreTrainedModel, batch: Sequence[Text]
) -> tuple[dict[str, Any], torch.Tensor, int]:
    """Return the arguments of the model, the tokens, and the first place that predicts an answer.

    Nothing before that place, the end of the shortest prompt, is needed of the logits.
    """
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        mask[row, :end] = 1
    first = min(len(prompt) for prompt, _ in batch) - 1
    inputs: dict[str, Any] = {
        "input_ids": ids.to(model.device),
        "attention_mask": mask.to(model.device),
        "use_cache": False,
    }
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = width - first
    return inputs, ids, first
