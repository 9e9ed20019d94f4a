"""Each answer in a padded row of its own behind its prompt, as any causal model takes it."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from prefreg.data.tokens import TokenPair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGITS_LIMIT = 1 << 27
"""Logits in memory at a time (512 MiB in float32): a batch is made smaller to stay below."""


@torch.no_grad()
def score_answers(model: "PreTrainedModel", pairs: Sequence[TokenPair]) -> list[torch.Tensor]:
    """Return the log-probabilities of each answer's tokens: all chosen, then all rejected."""
    sequences = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    sequences += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    fitting = max(1, _LOGITS_LIMIT // (longest * model.config.get_text_config().vocab_size))
    return [
        tokens
        for start in range(0, len(sequences), fitting)
        for tokens in _score(model, sequences[start : start + fitting])
    ]


def _score(
    model: "PreTrainedModel", batch: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[torch.Tensor]:
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor([*prompt, *answer])
        mask[row, :length] = 1
    # The first answer token is predicted at the last prompt token; nothing before it is needed.
    first = min(len(prompt) for prompt, _ in batch) - 1
    device = model.device
    extra = {"logits_to_keep": longest - first} if _can_keep(model) else {}
    logits = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **extra
    ).logits
    logits = logits[:, first - longest : -1]
    targets = ids[:, first + 1 :].to(device)
    picked = logits.gather(2, targets.unsqueeze(2)).squeeze(2).float()
    log_probs = (picked - logits.float().logsumexp(2)).cpu()
    starts = [len(prompt) - 1 - first for prompt, _ in batch]
    return [
        log_probs[row, start : start + len(answer)]
        for row, (start, (_, answer)) in enumerate(zip(starts, batch, strict=True))
    ]


def _can_keep(model: "PreTrainedModel") -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
