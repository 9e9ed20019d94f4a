"""What is computed once instead of again; where the result would be another, why not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl.trainer.utils import disable_dropout_in_model

from prefreg.data.tokens import TokenPair
from prefreg.scoring.probe import why_not_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl.trainer.dpo_config import DPOConfig

_PAIR_BY_PAIR = {
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
}
"""The losses of trl 1.16 in which no pair depends on the others of its batch."""


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """Why a shortcut is not taken; None where it is."""

    shared_prompt: str | None = None
    """Prompt and both answers in one row."""
    sorted_parts: str | None = None
    """An optimiser batch in parts of similar length."""

    def notes(self) -> list[str]:
        """Say in a sentence each what is not done, and why."""
        told = (
            ("Prompts are read once for each answer", self.shared_prompt),
            ("Micro-batches are not sorted by length", self.sorted_parts),
        )
        return [f"{what}: {reason}." for what, reason in told if reason]

    def as_dict(self) -> dict[str, Any]:
        """Return what is recorded about them."""
        reasons = {"shared_prompt": self.shared_prompt, "sorted_parts": self.sorted_parts}
        return {
            name: {"on": reason is None} | ({"why_not": reason} if reason else {})
            for name, reason in reasons.items()
        }


def choose_shortcuts(
    model: "PreTrainedModel", pairs: Sequence[TokenPair], config: "DPOConfig"
) -> Shortcuts:
    """Find out which shortcuts leave the training of this model on these pairs as it is.

    Like trl, this switches the model's dropout layers off where the configuration says so.
    """
    if reason := _needs_trl_batches(model, config):
        return Shortcuts(reason, reason)
    coupled = sorted(set(config.loss_type) - _PAIR_BY_PAIR)
    parts = f"the loss {', '.join(coupled)} couples the pairs of a batch" if coupled else None
    if config.disable_dropout:
        disable_dropout_in_model(model)
    training = model.training
    model.train()
    try:
        return Shortcuts(why_not_rows(model, pairs), parts)
    finally:
        model.train(training)


def _needs_trl_batches(model: "PreTrainedModel", config: "DPOConfig") -> str | None:
    """Return why nothing but trl's own batches will do, whatever the model's attention takes."""
    if config.neftune_noise_alpha is not None:
        return "neftune_noise_alpha adds noise to every row by itself"
    if config.torch_compile:
        return "torch_compile compiles the model for trl's batches"
    if coefficient := _router_loss(model, config):
        return f"the router's loss (coefficient {coefficient:g}) depends on the whole batch"
    return None


def _router_loss(model: "PreTrainedModel", config: "DPOConfig") -> float:
    """Return the weight of the load-balancing loss, as trl works it out."""
    text: Any = model.config.get_text_config()
    if not hasattr(text, "output_router_logits"):
        return 0.0
    asked = config.router_aux_loss_coef
    return float(getattr(text, "router_aux_loss_coef", 0.0) if asked is None else asked)
