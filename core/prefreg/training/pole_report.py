"""What a pole learned: its log-probabilities against those of the reference."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from prefreg.models.log_probs import PairLogProbs, margins, preference_accuracy


@dataclass(frozen=True, slots=True)
class PoleReport:
    """Figures of one pole on pairs that it prefers; changes are against the reference."""

    pairs: int
    split: str
    """`heldout`, or `train` where the data is too small to hold pairs out."""
    accuracy: float
    """Share of pairs whose implicit reward margin is positive; a tie counts one half."""
    mean_margin: float
    """Mean change of log p(chosen) − log p(rejected), in nats; β times it is the reward margin."""
    mean_margin_per_token: float
    chosen_change: float
    """Mean change of log p(chosen) in nats; far below zero, the answers of the data got lost."""
    chosen_change_per_token: float
    rejected_change: float
    rejected_change_per_token: float
    preference_accuracy: float
    """Share of pairs whose chosen answer the pole finds more probable than the rejected one."""
    reference_accuracy: float
    """The same of the reference."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures in a form that JSON can hold."""
        return asdict(self)


def compare(policy: PairLogProbs, reference: PairLogProbs, *, split: str = "heldout") -> PoleReport:
    """Compare a pole with the reference on the same pairs."""
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margin = chosen - rejected
    chosen_per_token = _per_token(chosen, policy.chosen_tokens)
    rejected_per_token = _per_token(rejected, policy.rejected_tokens)
    return PoleReport(
        pairs=len(policy),
        split=split,
        accuracy=preference_accuracy(margin),
        mean_margin=float(margin.mean()),
        mean_margin_per_token=chosen_per_token - rejected_per_token,
        chosen_change=float(chosen.mean()),
        chosen_change_per_token=chosen_per_token,
        rejected_change=float(rejected.mean()),
        rejected_change_per_token=rejected_per_token,
        preference_accuracy=preference_accuracy(margins(policy)),
        reference_accuracy=preference_accuracy(margins(reference)),
    )


def _per_token(change: torch.Tensor, tokens: torch.Tensor) -> float:
    """Return the change of the average token: long answers count for as much as they weigh."""
    return float(change.sum() / tokens.sum())
