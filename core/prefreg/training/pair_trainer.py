"""TRL's DPOTrainer on our tokens, reference and parts of batches."""

from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from prefreg.scoring.rows import Rows, token_scores

_FIGURES = ("rewards/", "logps/", "aux_loss")
"""What is kept of trl's figures: those that are means over pairs."""


class PairTrainer(DPOTrainer):
    """DPOTrainer on tokens with reference log-probabilities, fed whole optimiser batches in parts.

    trl 1.16 ignores such columns unless `precompute_ref_log_probs` is set, and then computes
    them again. Those two methods are private: a test watches their signatures and their effect.
    """

    model: Any

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: trl makes one with every checkpoint, and looks for a repository."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:
        """Add up the gradients of a batch's parts; each figure is the weighted mean of theirs."""
        figures = self._metrics["train"]
        means: dict[str, float] = {}
        loss = torch.zeros((), device=self.args.device)
        for part in inputs["parts"]:
            found = self._metrics["train"] = defaultdict(list)
            step = super().training_step(model, part, *args, **options)  # type: ignore[no-untyped-call]
            loss = loss + step
            for name, [value] in found.items():
                if name.startswith(_FIGURES):
                    means[name] = means.get(name, 0.0) + part["weight"] * value
        self._metrics["train"] = figures
        for name, mean in means.items():
            figures[name].append(mean)
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:
        """Return a part's share of trl's loss."""
        inputs = dict(inputs)
        weight: float = inputs.pop("weight")
        scored = self._score_rows if "rows" in inputs else model
        loss: torch.Tensor = super().compute_loss(scored, inputs, *args, **options)  # type: ignore[no-untyped-call]
        return weight * loss

    def _score_rows(self, *, rows: Rows, labels: torch.Tensor, **_: Any) -> FusedCausalLMOutput:
        """Stand in for the model: score rows, and answer as trl's fused head does.

        The figures that it has beside the log-probabilities cost time and are not kept.
        """
        answered = labels[:, 1:] != -100
        with self.accelerator.autocast():
            scored = token_scores(self.model, rows, purity=self.use_weighting)

        def place(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(answered.shape).masked_scatter(answered, values)

        nothing = torch.zeros(answered.shape, device=labels.device)
        return FusedCausalLMOutput(
            log_probs=place(scored.log_probs),
            log_sum_sq_probs=None if scored.purity is None else place(scored.purity),
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )
