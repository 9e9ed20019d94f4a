"""Both answers of a pair in one row behind their prompt, so that the prompt is read once."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from prefreg.data.tokens import TokenPair
from prefreg.errors import reason
from prefreg.models.padded import score_answers
from prefreg.models.ranks import within

_PROMPT, _CHOSEN, _REJECTED, _PADDING = range(4)
LOGITS_LIMIT = 1 << 25
"""Logits that are kept for the backward pass (128 MiB in float32); more are made twice."""
_TOLERANCE = 1e-3
"""Of the spread of the log-probabilities: float32 rounds at 1e-5 of it, and a mask that is not
taken changed it by 3e-2 and more in every kind of model tried."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Pairs as rows of a batch: prompt, chosen answer, rejected answer, padding.

    The rejected answer goes on from the position at which the prompt ends, as the chosen one
    does, and does not see it. The last token of an answer predicts nothing and is left out.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    """Which part of its row a token belongs to."""
    predictors: torch.Tensor
    """For each answer token the place, in the flattened rows, of the token that predicts it:
    the chosen answers one after the other, then the rejected ones. The end of a prompt predicts
    the first token of both."""
    targets: torch.Tensor
    """The answer tokens, in that order."""

    def to(self, device: torch.device | str, **options: Any) -> "Rows":
        """Return the rows on another device."""
        return Rows(*(getattr(self, field.name).to(device, **options) for field in fields(self)))


def row_length(pair: TokenPair) -> int:
    """Return how many tokens a pair takes in a row."""
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) - 2


def longest_answered(pair: TokenPair) -> int:
    """Return how many tokens the prompt has with the longer answer."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def lay_out(pairs: Sequence[TokenPair]) -> Rows:
    """Write pairs as rows, padded at their ends to the longest."""
    longest = max(map(row_length, pairs))
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, _PADDING)
    chosen, rejected = [], []
    for row, pair in enumerate(pairs):
        start = len(pair.prompt_ids)
        middle = start + len(pair.chosen_ids) - 1
        end = row_length(pair)
        ids[row, :end] = torch.tensor(
            [*pair.prompt_ids, *pair.chosen_ids[:-1], *pair.rejected_ids[:-1]]
        )
        positions[row, :middle] = torch.arange(middle)
        positions[row, middle:end] = torch.arange(start, start + end - middle)
        segments[row, :start] = _PROMPT
        segments[row, start:middle] = _CHOSEN
        segments[row, middle:end] = _REJECTED
        first = row * longest
        chosen.append(torch.arange(first + start - 1, first + middle))
        rejected.append(torch.tensor([first + start - 1, *range(first + middle, first + end)]))
    answers = chain((p.chosen_ids for p in pairs), (p.rejected_ids for p in pairs))
    targets = torch.tensor(list(chain.from_iterable(answers)))
    return Rows(ids, positions, segments, torch.cat([*chosen, *rejected]), targets)


def attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return what is added to attention: 0 where a token may look, else −∞.

    A token sees the prompt and its own part of the row, up to itself; so does padding, which
    nothing else sees. Added numbers serve every kind of attention, truth values do not.
    """
    length = segments.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    looked_at, looking = segments.unsqueeze(1), segments.unsqueeze(2)
    seen = before & ((looked_at == _PROMPT) | (looked_at == looking))
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf).unsqueeze(1)


class TokenScores(NamedTuple):
    """Figures of each answer token, in the order of `Rows.targets`, in float32."""

    log_probs: torch.Tensor
    purity: torch.Tensor | None
    """log Σ p² over the vocabulary, without gradient, where it was asked for."""


def token_scores(model: PreTrainedModel, rows: Rows, *, purity: bool = False) -> TokenScores:
    """Score the answer tokens of rows.

    The vocabulary is projected onto only where an answer token is predicted. `model` may carry
    a LoRA adapter, but none on its head.
    """
    causal: Any = getattr(model, "get_base_model", lambda: model)()
    return within(causal, _token_scores, rows, purity)


def _token_scores(causal: Any, rows: Rows, purity: bool) -> TokenScores:
    hidden = causal.base_model(
        input_ids=rows.ids,
        # Else autocast would turn it into bfloat16 in every layer.
        attention_mask=attention_mask(rows.segments).to(causal.dtype),
        position_ids=rows.positions,
        use_cache=False,
    ).last_hidden_state
    states = hidden.flatten(0, 1)[rows.predictors]
    config = causal.config.get_text_config()
    score = partial(_score, causal.get_output_embeddings(), config, purity)
    size = max(1, LOGITS_LIMIT // int(config.vocab_size))
    if len(states) <= size:
        return score(states, rows.targets)
    parts = [
        checkpoint(score, *part, use_reentrant=False)
        for part in zip(torch.split(states, size), torch.split(rows.targets, size), strict=True)
    ]
    log_probs = torch.cat([part.log_probs for part in parts])
    return TokenScores(log_probs, torch.cat([part.purity for part in parts]) if purity else None)


def why_not_rows(model: PreTrainedModel, pairs: Sequence[TokenPair]) -> str | None:
    """Return why `pairs` cannot be scored in rows by this model, or None where they can.

    Random tokens in the shapes of the extreme pairs are scored in rows and answer by answer, in
    the mode that the model is in. Nothing that `pairs` has is longer, so that a window of
    attention which matters to them is found out; one that is wider than all of them is not.
    """
    probes = _probes(pairs, int(model.config.get_text_config().vocab_size))
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        shortest = [_answer_by_answer(model, probes[-1:]) for _ in range(2)]
        if not torch.equal(*shortest):
            return "the model draws random numbers (dropout), and would draw once for both answers"
        expected = _answer_by_answer(model, probes)
        try:
            found = token_scores(model, lay_out(probes).to(model.device)).log_probs.cpu()
        except Exception as error:  # whatever an unknown architecture raises
            told = f"{reason(error):.200}"
            return f"the model refuses the mask or the positions of a shared prompt ({told})"
    difference = float((found - expected).abs().max())
    if difference <= _TOLERANCE * float(expected.std()):
        return None
    return (
        "attention does not take the mask of a shared prompt (log-probabilities differ by "
        f"{difference:.2g} nats)"
    )


def _score(
    head: Any, config: Any, purity: bool, states: torch.Tensor, targets: torch.Tensor
) -> TokenScores:
    logits = head(states).float()
    if (scale := _logit_scale(config)) != 1:
        logits = logits * scale
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    log_probs = -functional.cross_entropy(logits, targets, reduction="none")
    if not purity:
        return TokenScores(log_probs, None)
    with torch.no_grad():
        squares = (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)
    return TokenScores(log_probs, squares)


def _logit_scale(config: Any) -> float:
    """Return what a model multiplies its logits by; the probe finds out those that differ."""
    if scale := getattr(config, "logit_scale", None):
        return float(scale)
    return 1 / float(getattr(config, "logits_scaling", None) or 1)


def _probes(pairs: Sequence[TokenPair], vocabulary: int) -> list[TokenPair]:
    """Make pairs of random tokens as long as the longest row, the longest text and the shortest."""
    draw = random.Random(0)

    def like(ids: Sequence[int]) -> "array[int]":
        return array("i", [draw.randrange(vocabulary) for _ in ids])

    longest, shortest = max(pairs, key=row_length), min(pairs, key=row_length)
    deepest = max(pairs, key=longest_answered)
    shapes = [longest, shortest]
    if longest_answered(deepest) > longest_answered(longest):
        shapes.insert(0, deepest)
    return [
        TokenPair(like(pair.prompt_ids), like(pair.chosen_ids), like(pair.rejected_ids))
        for pair in shapes
    ]


def _answer_by_answer(model: PreTrainedModel, pairs: Sequence[TokenPair]) -> torch.Tensor:
    """Score each answer in a row of its own, in the order of `Rows.targets`."""
    scored = [score_answers(model, [pair]) for pair in pairs]
    return torch.cat([answers[side] for side in (0, 1) for answers in scored])
