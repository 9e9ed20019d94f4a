"""Whether a model scores pairs in rows as it scores each answer by itself."""

import random
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from prefreg.data.tokens import TokenPair
from prefreg.scoring.answers import score_answers
from prefreg.scoring.rows import lay_out, longest_answered, row_length, token_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Of the spread of the log-probabilities: float32 rounds at 1e-5 of it, and a mask that is not
taken changed it by 3e-2 and more in every kind of model tried."""


def why_not_rows(model: "PreTrainedModel", pairs: Sequence[TokenPair]) -> str | None:
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
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return f"the model refuses the mask or the positions of a shared prompt ({reason:.200})"
    difference = float((found - expected).abs().max())
    if difference <= _TOLERANCE * float(expected.std()):
        return None
    return (
        "attention does not take the mask of a shared prompt (log-probabilities differ by "
        f"{difference:.2g} nats)"
    )


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


def _answer_by_answer(model: "PreTrainedModel", pairs: Sequence[TokenPair]) -> torch.Tensor:
    """Score each answer in a row of its own, in the order of `Rows.targets`."""
    scored = [score_answers(model, [pair]) for pair in pairs]
    return torch.cat([answers[side] for side in (0, 1) for answers in scored])
