"""Log-probabilities of answers, teacher-forced."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from prefreg.data.tokens import TokenPair
from prefreg.models.loading import no_numbers
from prefreg.models.padded import Text, score_answers, score_texts, split_by_length
from prefreg.models.prompt_rows import (
    lay_out,
    longest_answered,
    row_length,
    token_scores,
    why_not_rows,
)
from prefreg.models.ranks import current
from prefreg.models.threads import on_suited_threads
from prefreg.progress import Steps

TOKENS = 4096
"""Tokens that are scored at a time, with their padding."""
_AT_MOST = 64


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


@on_suited_threads
def answer_log_probs(
    model: PreTrainedModel,
    pairs: Sequence[TokenPair],
    *,
    tokens: int = TOKENS,
    rows: bool | None = None,
    tail: float = 1.0,
    progress: Steps | None = None,
) -> PairLogProbs:
    """Score both answers of every pair; `progress` gets answers done and in total.

    Both stand in one row behind their prompt where the model takes that, which a probe tells
    unless `rows` says so; as many rows at a time as have `tokens` tokens. The model computes in
    its own dtype and mode-free (no dropout); log-softmax is in float32 and sums are in float64.
    Padding is masked, so the batches change a result by rounding only. Tokens of the longer
    answer beyond the length of the shorter one count for `tail` each (LD-DPO). The processes of a
    run share the batches, and each gets all scores.
    """
    sums = torch.zeros(len(pairs), 2, dtype=torch.float64)
    training = model.training
    model.train(False)
    try:
        if rows is None and pairs:
            rows = why_not_rows(model, pairs) is None
        score = _score_rows if rows else score_answers
        lengths = [row_length(pair) if rows else 2 * longest_answered(pair) for pair in pairs]
        done, ranks = 0, current()
        for batch, counts in ranks.deal(split_by_length(lengths, tokens=tokens, at_most=_AT_MOST)):
            scored = score(model, [pairs[i] for i in batch])
            if not counts:
                continue
            for i, chosen, rejected in zip(batch, scored, scored[len(batch) :], strict=False):
                shared = min(len(chosen), len(rejected))
                sums[i, 0] = _total(chosen, shared, tail)
                sums[i, 1] = _total(rejected, shared, tail)
            done = min(done + ranks.world * len(batch), len(pairs))
            if progress:
                progress(2 * done, 2 * len(pairs))
        if ranks.world > 1:
            ranks.add_up([sums])
    finally:
        model.train(training)
    return PairLogProbs(
        sums[:, 0].clone(),
        sums[:, 1].clone(),
        torch.tensor([len(pair.chosen_ids) for pair in pairs], dtype=torch.int64),
        torch.tensor([len(pair.rejected_ids) for pair in pairs], dtype=torch.int64),
    )


@on_suited_threads
def text_log_probs(
    model: PreTrainedModel, texts: Sequence[Text], *, progress: Steps | None = None
) -> torch.Tensor:
    """Return log p(answer | prompt) of each text in nats, float64 on the CPU; mode-free.

    Raises:
        BaseModelError: The model's weights make no numbers.
    """
    sums = torch.zeros(len(texts), dtype=torch.float64)
    training, done = model.training, 0
    model.train(False)
    try:
        lengths = [len(prompt) + len(answer) for prompt, answer in texts]
        for batch in split_by_length(lengths, tokens=TOKENS, at_most=_AT_MOST):
            scored = score_texts(model, [texts[i] for i in batch])
            sums[batch] = torch.stack([each.double().sum() for each in scored])
            done += len(batch)
            if progress:
                progress(done, len(texts))
    finally:
        model.train(training)
    if not bool(sums.sum().isfinite()):
        raise no_numbers(model)
    return sums


def require_finite_scores(model: PreTrainedModel, scores: PairLogProbs) -> PairLogProbs:
    """Return the scores of a model, which must be numbers.

    Raises:
        BaseModelError: They are not; it names the weights that are the cause.
    """
    # A sum over both sides is not finite where any of them is not.
    if not bool((scores.chosen + scores.rejected).sum().isfinite()):
        raise no_numbers(model)
    return scores


def margins(scores: PairLogProbs) -> torch.Tensor:
    """Return log p(chosen) − log p(rejected) of each pair, in nats."""
    return scores.chosen - scores.rejected


def preference_accuracy(margin: torch.Tensor) -> float:
    """Return the share of positive margins; a tie counts one half."""
    return float(((margin > 0).double() + 0.5 * (margin == 0).double()).mean())


@torch.no_grad()
def _score_rows(model: PreTrainedModel, pairs: Sequence[TokenPair]) -> list[torch.Tensor]:
    """Return the log-probabilities of each answer's tokens: all chosen, then all rejected."""
    scores = token_scores(model, lay_out(pairs).to(model.device)).log_probs.cpu()
    answers = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    return list(torch.split(scores, [len(answer) for answer in answers]))


def _total(tokens: torch.Tensor, shared: int, tail: float) -> torch.Tensor:
    """Sum tokens; those from `shared` on count for `tail` each."""
    exact = tokens.double()
    return exact[:shared].sum() + tail * exact[shared:].sum()
