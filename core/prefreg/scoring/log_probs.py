"""Log-probabilities of answers, teacher-forced."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from prefreg.data.tokens import TokenPair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_SIZE = 16
_LOGITS_LIMIT = 1 << 27
"""Logits in memory at a time (512 MiB in float32): a batch is made smaller to stay below."""


@dataclass(frozen=True, slots=True)
class PairLogProbs:
    """Summed log-probabilities of both answers of each pair, with their token counts."""

    chosen: torch.Tensor
    """Nats, float64 on the CPU, one a pair."""
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, part: slice) -> "PairLogProbs":
        return PairLogProbs(
            self.chosen[part],
            self.rejected[part],
            self.chosen_tokens[part],
            self.rejected_tokens[part],
        )

    def switched(self) -> "PairLogProbs":
        """Exchange chosen and rejected."""
        return PairLogProbs(self.rejected, self.chosen, self.rejected_tokens, self.chosen_tokens)


def answer_log_probs(
    model: "PreTrainedModel",
    pairs: Sequence[TokenPair],
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> PairLogProbs:
    """Score both answers of every pair; `progress` gets answers done and in total.

    The model computes in its own dtype and mode-free (no dropout); log-softmax is in float32 and
    sums are in float64. Padding is masked, so the batches change a result by rounding only.
    """
    prompts = [pair.prompt_ids for pair in pairs for _ in range(2)]
    answers = [ids for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    sums = torch.zeros(len(answers), dtype=torch.float64)
    # Long sequences first: if memory is short, it fails at once; and neighbours pad little.
    order = sorted(range(len(answers)), key=lambda i: -len(prompts[i]) - len(answers[i]))
    training = model.training
    model.train(False)
    try:
        start = 0
        while start < len(order):
            longest = len(prompts[order[start]]) + len(answers[order[start]])
            fitting = max(1, _LOGITS_LIMIT // (longest * model.config.get_text_config().vocab_size))
            batch = order[start : start + min(batch_size, fitting)]
            sums[batch] = _score(model, [(prompts[i], answers[i]) for i in batch])
            start += len(batch)
            if progress:
                progress(start, len(order))
    finally:
        model.train(training)
    counts = torch.tensor([len(answer) for answer in answers], dtype=torch.int64)
    return PairLogProbs(sums[::2], sums[1::2], counts[::2], counts[1::2])


def margins(scores: PairLogProbs) -> torch.Tensor:
    """Return log p(chosen) − log p(rejected) of each pair, in nats."""
    return scores.chosen - scores.rejected


def preference_accuracy(margin: torch.Tensor) -> float:
    """Return the share of positive margins; a tie counts one half."""
    return float(((margin > 0).double() + 0.5 * (margin == 0).double()).mean())


@torch.no_grad()
def _score(
    model: "PreTrainedModel", batch: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> torch.Tensor:
    """Return the summed log-probability of each answer after its prompt."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    answered = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor([*prompt, *answer])
        mask[row, :length] = 1
        answered[row, len(prompt) : length] = True
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
    log_probs = picked - logits.float().logsumexp(2)
    counted = answered[:, first + 1 :].to(device)
    sums: torch.Tensor = log_probs.masked_fill(~counted, 0).double().sum(1).cpu()
    return sums


def _can_keep(model: "PreTrainedModel") -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
