"""From the pairs of an optimiser batch to what trl's loss is computed on, part by part."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput, disable_dropout_in_model

from prefreg.data.tokens import TokenPair
from prefreg.models.padded import split_by_length
from prefreg.models.prompt_rows import (
    Rows,
    lay_out,
    longest_answered,
    row_length,
    token_scores,
    why_not_rows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl.trainer.dpo_config import DPOConfig


def trl_parts(count: int, size: int) -> list[tuple[range, float]]:
    """Cut a batch of `count` pairs as TRL does; return parts with their share of the loss.

    TRL takes `size` pairs at a time as they come and averages the means: where the last part is
    smaller, its pairs weigh more.
    """
    starts = range(0, count, size)
    return [(range(start, min(start + size, count)), 1 / len(starts)) for start in starts]


def sorted_parts(
    lengths: Sequence[int], size: int, *, tokens: int
) -> Iterator[tuple[list[int], float]]:
    """Cut a batch into parts of similar length, longest first, of at most `tokens` each.

    Every pair keeps the weight that it has in TRL's parts, so the sum of gradients is the same.
    Pairs of different weight share no part.
    """
    count = len(lengths)
    parts = len(trl_parts(count, size))
    smaller = count % size
    for members, together in (
        (range(count - smaller), size),
        (range(count - smaller, count), smaller),
    ):
        chosen = [lengths[i] for i in members]
        for part in split_by_length(chosen, tokens=tokens, at_most=count):
            yield [members[i] for i in part], len(part) / (together * parts)


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

    def to_json(self) -> dict[str, Any]:
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


Example = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PartCollator:
    """Cut the pairs of a batch into parts, and write each as `Rows` or as trl does.

    A part has the keys of trl's batch and its `weight`, its share of the loss.
    """

    plain: DataCollatorForPreference
    size: int
    shortcuts: Shortcuts

    def __call__(self, examples: Sequence[Example]) -> dict[str, list[dict[str, Any]]]:
        """Return the parts of a batch."""
        cut: Iterable[tuple[Sequence[int], float]] = trl_parts(len(examples), self.size)
        if self.shortcuts.sorted_parts is None:
            cut = self._sorted([_pair(example) for example in examples])
        write = self.plain if self.shortcuts.shared_prompt else write_rows
        return {"parts": [write([examples[i] for i in part]) | {"weight": w} for part, w in cut]}

    def _sorted(self, pairs: Sequence[TokenPair]) -> Iterable[tuple[Sequence[int], float]]:
        """Cut pairs into sorted parts, none of more tokens than trl's largest part of them."""
        both = [2 * longest_answered(pair) for pair in pairs]
        lengths = both if self.shortcuts.shared_prompt else [row_length(pair) for pair in pairs]
        tokens = max(
            len(part) * max(both[i] for i in part) for part, _ in trl_parts(len(pairs), self.size)
        )
        return sorted_parts(lengths, self.size, tokens=tokens)


def write_rows(examples: Sequence[Example]) -> dict[str, Any]:
    """Write pairs as rows beside a batch of trl's form in which prompts are one token long.

    From that batch trl takes only which tokens are an answer's.
    """
    pairs = [_pair(example) for example in examples]
    answers = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    longest = 1 + max(map(len, answers))
    ids = torch.zeros(len(answers), longest, dtype=torch.long)
    answered = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, 1 : 1 + len(answer)] = torch.tensor(answer)
        answered[row, 1 : 1 + len(answer)] = 1
    attended = answered.clone()
    attended[:, 0] = 1
    return {
        "input_ids": ids,
        "attention_mask": attended,
        "completion_mask": answered,
        "ref_chosen_logps": torch.tensor([each["ref_chosen_logps"] for each in examples]),
        "ref_rejected_logps": torch.tensor([each["ref_rejected_logps"] for each in examples]),
        "rows": lay_out(pairs),
    }


def _pair(example: Example) -> TokenPair:
    return TokenPair(example["prompt_ids"], example["chosen_ids"], example["rejected_ids"])


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
