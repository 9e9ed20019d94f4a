"""One pole, trained by TRL: whole optimiser batches in parts of ours, no files, no chatter."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput, disable_dropout_in_model

from prefreg.data.rendering import padding_id
from prefreg.data.tokens import TokenPair
from prefreg.errors import Interrupted, TrainingError
from prefreg.files import work_folder
from prefreg.models.log_probs import PairLogProbs
from prefreg.models.padded import split_by_length
from prefreg.models.prompt_rows import (
    Rows,
    lay_out,
    longest_answered,
    row_length,
    token_scores,
    why_not_rows,
)
from prefreg.models.ranks import ALONE, Ranks, current
from prefreg.progress import Steps
from prefreg.training.callbacks import Checkpoints, CurvePoint, CurveRecorder, PoleChecks
from prefreg.training.run_state import (
    STATE_FILE,
    is_plain,
    load_moments,
    load_weights,
    save_state,
    trained,
)
from prefreg.training.settings import Settings, dpo_config

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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


PAIR_BY_PAIR = {
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
OF_CHOSEN = {"sft"}
"""The losses of trl 1.16 of which the rejected answers are no part."""


def reads_chosen_only(config: "DPOConfig") -> bool:
    """Whether a pole learns to give its answers, and not to prefer them to others."""
    return set(config.loss_type) <= OF_CHOSEN


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """Why a shortcut is not taken; None where it is."""

    shared_prompt: str | None = None
    """Prompt and both answers in one row."""
    sorted_parts: str | None = None
    """An optimiser batch in parts of similar length."""
    chosen_only: bool = False
    """Rejected answers are not read: the loss does not ask for them. There is no margin then."""

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
        told: dict[str, Any] = {
            name: {"on": reason is None} | ({"why_not": reason} if reason else {})
            for name, reason in reasons.items()
        }
        return told | ({"chosen_only": {"on": True}} if self.chosen_only else {})


def choose_shortcuts(
    model: "PreTrainedModel", pairs: Sequence[TokenPair], config: "DPOConfig"
) -> Shortcuts:
    """Find out which shortcuts leave the training of this model on these pairs as it is.

    Like trl, this switches the model's dropout layers off where the configuration says so.
    """
    if model.base_model is model:
        raise TrainingError(
            f"trl cannot train a {type(model).__name__}: it names no body of its own."
        )
    if reason := _needs_trl_batches(model, config):
        return Shortcuts(reason, reason)
    coupled = sorted(set(config.loss_type) - PAIR_BY_PAIR)
    parts = f"the loss {', '.join(coupled)} couples the pairs of a batch" if coupled else None
    if config.disable_dropout:
        disable_dropout_in_model(model)
    training = model.training
    model.train()
    try:
        no_rows = why_not_rows(model, pairs)
        return Shortcuts(no_rows, parts, no_rows is None and reads_chosen_only(config))
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
    found = float(getattr(text, "router_aux_loss_coef", 0.0) if asked is None else asked)
    if found and not hasattr(text, "num_experts"):
        raise TrainingError(
            f"trl cannot compute the router's loss of a {type(model).__name__}: its configuration "
            "does not say num_experts. Train without it: router_aux_loss_coef=0."
        )
    return found


Example = Mapping[str, Any]
Part = tuple[Sequence[int], float]
"""The places of some pairs in their batch, and their share of its loss."""


@dataclass(frozen=True, slots=True)
class PartCollator:
    """Cut the pairs of a batch into parts, and write each as `Rows` or as trl does.

    A part has the keys of trl's batch and its `weight`, its share of the loss. Of several processes
    each has the whole batch, and takes its parts of it.
    """

    plain: DataCollatorForPreference
    size: int
    shortcuts: Shortcuts
    ranks: Ranks = ALONE

    def __call__(self, examples: Sequence[Example]) -> dict[str, list[dict[str, Any]]]:
        """Return the parts of a batch."""
        cut: Iterable[Part] = trl_parts(len(examples), self.size)
        if self.shortcuts.sorted_parts is None:
            cut = self._sorted([_pair(example) for example in examples])
        if self.ranks.world > 1:
            cut = self._deal(list(cut))
        write = (
            self.plain
            if self.shortcuts.shared_prompt
            else partial(write_rows, chosen_only=self.shortcuts.chosen_only)
        )
        return {"parts": [write([examples[i] for i in part]) | {"weight": w} for part, w in cut]}

    def _deal(self, parts: list[Part]) -> Iterator[Part]:
        """Take this process's parts; they are halved, where that changes nothing, to go round."""
        if self.shortcuts.sorted_parts is None:
            while len(parts) % self.ranks.world:
                largest = max(range(len(parts)), key=lambda place: len(parts[place][0]))
                members, weight = parts[largest]
                if len(members) == 1:
                    break
                halves = members[: len(members) // 2], members[len(members) // 2 :]
                each = weight / len(members)
                parts[largest : largest + 1] = [(half, each * len(half)) for half in halves]
        for (members, weight), counts in self.ranks.deal(parts):
            yield members, weight if counts else 0.0

    def _sorted(self, pairs: Sequence[TokenPair]) -> Iterable[Part]:
        """Cut pairs into sorted parts, none of more tokens than trl's largest part of them."""
        both = [2 * longest_answered(pair) for pair in pairs]
        lengths = both if self.shortcuts.shared_prompt else [row_length(pair) for pair in pairs]
        tokens = max(
            len(part) * max(both[i] for i in part) for part, _ in trl_parts(len(pairs), self.size)
        )
        return sorted_parts(lengths, self.size, tokens=tokens)


def write_rows(examples: Sequence[Example], *, chosen_only: bool = False) -> dict[str, Any]:
    """Write pairs as rows beside a batch of trl's form in which prompts are one token long.

    From that batch trl takes only which tokens are an answer's. With `chosen_only` the first token
    stands for a rejected answer: the end of the prompt predicts it, so it takes no place.
    """
    pairs = [_pair(example) for example in examples]
    if chosen_only:
        pairs = [replace(pair, rejected_ids=pair.rejected_ids[:1]) for pair in pairs]
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


_SCHEDULE = "scheduler.pt"
_FIGURES = ("rewards/", "logps/", "aux_loss")
"""What is kept of trl's figures: those that are means over pairs."""
_OF_ONE_ANSWER = ("rewards/chosen", "logps/chosen", "aux_loss")


class PairTrainer(DPOTrainer):
    """DPOTrainer on tokens with reference log-probabilities, fed whole optimiser batches in parts.

    trl 1.16 ignores such columns unless `precompute_ref_log_probs` is set, and then computes
    them again. What is private of trl here is watched by tests, name by name.
    """

    model: Any
    data_collator: Any
    optimizer: Any
    lr_scheduler: Any

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: trl makes one with every checkpoint, and looks for a repository."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:
        """Add up the gradients of a batch's parts; each figure is the weighted mean of theirs."""
        figures = self._metrics["train"]
        kept = _OF_ONE_ANSWER if self.data_collator.shortcuts.chosen_only else _FIGURES
        means: dict[str, float] = {}
        loss = torch.zeros((), device=self.args.device)
        share = self._gradient_share
        for part in inputs["parts"]:
            found = self._metrics["train"] = defaultdict(list)
            step = super().training_step(model, part, *args, **options)  # type: ignore[no-untyped-call]
            loss = loss + step / share
            for name, [value] in found.items():
                if name.startswith(kept):
                    means[name] = means.get(name, 0.0) + part["weight"] * value
        self._metrics["train"] = figures
        ranks = self.data_collator.ranks
        if ranks.world > 1:
            loss, means = self._joined(ranks, loss, means)
        for name, mean in means.items():
            figures[name].append(mean)
        return loss

    def _joined(
        self, ranks: Ranks, loss: torch.Tensor, means: dict[str, float]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Add up what the processes found, and the gradients that shards have not added up yet."""
        told = torch.tensor([float(loss), *(means[name] for name in sorted(means))]).double()
        ranks.add_up([told])
        held = trained(self.model).values()
        for each in held:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        grads: list[Any] = [each.grad for each in held]
        ranks.add_up(grad for grad in grads if not isinstance(grad, DTensor))
        found = [float(value) for value in told]
        return loss.new_tensor(found[0]), dict(zip(sorted(means), found[1:], strict=True))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:
        """Return a part's share of trl's loss."""
        inputs = dict(inputs)
        weight: float = inputs.pop("weight")
        scored = self._score_rows if "rows" in inputs else model
        loss: torch.Tensor = super().compute_loss(scored, inputs, *args, **options)  # type: ignore[no-untyped-call]
        return weight * self._gradient_share * loss

    @cached_property
    def _gradient_share(self) -> int:
        """Return what makes a sum of the mean over the processes that gradients in shards are."""
        sharded = any(isinstance(each, DTensor) for each in trained(self.model).values())
        return self.data_collator.ranks.world if sharded else 1

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write what a run goes on with in a form that any number of processes read."""
        if not is_plain(self.optimizer):
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
            return
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        save_state(folder / STATE_FILE, self.model, self.optimizer)
        if current().first:
            torch.save(self.lr_scheduler.state_dict(), folder / _SCHEDULE)
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        file = Path(resume_from_checkpoint) / STATE_FILE
        if file.is_file():
            load_weights(file, self.model)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (Path(checkpoint) / STATE_FILE).is_file():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_moments(Path(checkpoint) / STATE_FILE, self.optimizer)
        self.lr_scheduler.load_state_dict(
            torch.load(Path(checkpoint) / _SCHEDULE, weights_only=True)
        )
        rates = self.lr_scheduler.get_last_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

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


def train_pole(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[TokenPair],
    reference: PairLogProbs,
    *,
    settings: Settings,
    max_length: int,
    seed: int,
    lora: "LoraConfig | None" = None,
    shortcuts: Shortcuts | None = None,
    checks: PoleChecks | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Steps | None = None,
) -> list[CurvePoint]:
    """Train `model` in place to prefer the chosen answers; the loss starts at log 2.

    With LoRA, an adapter is put on the model, and that alone is trained. Without `shortcuts`,
    those are taken that change nothing. `checks` stop a pole that collapses, which then has its
    last sound weights. With `checkpoints` the training goes on where an earlier one was ended.
    """
    recorder = CurveRecorder(CurvePoint.of, progress, checks)
    callbacks: list[TrainerCallback] = [
        one for one in (checks, recorder, checkpoints) if one is not None
    ]
    with ExitStack() as stack:
        stack.enter_context(explained())
        if checkpoints is None:
            folder = str(stack.enter_context(work_folder()))
        else:
            stack.enter_context(checkpoints.interruptible())
            stack.enter_context(checkpoints.resuming())
            folder = str(checkpoints.folder)
        config = dpo_config(settings, output_dir=folder, seed=seed, max_length=max_length)
        collator = PartCollator(
            DataCollatorForPreference(pad_token_id=padding_id(tokenizer)),
            size=config.per_device_train_batch_size,
            shortcuts=shortcuts or choose_shortcuts(model, pairs, config),
            ranks=current(),
        )
        if current().sharded:
            stack.enter_context(_without_hash())
        trainer = PairTrainer(
            model=model,
            args=_with_whole_batches(config),
            data_collator=collator,
            train_dataset=pair_dataset(pairs, reference),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        if lora is not None:  # trl takes them in bfloat16 on a base in 4 bits: steps would be lost
            for factor in trained(trainer.model).values():
                factor.data = factor.data.float()
        if lora is not None and config.bf16:
            _leave_inputs(trainer.model)
        newest = checkpoints.newest() if checkpoints else None
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if checkpoints is not None and checkpoints.interrupted:
        raise Interrupted(
            "Interrupted. What is done is kept: the same command goes on from here "
            "(--fresh starts over)."
        )
    if checks is not None:
        checks.restore()
    return recorder.curve


@contextmanager
def _without_hash() -> Iterator[None]:
    """Keep trl from hashing the model for a reference pass of its own, which shards do not take."""
    trl: Any = dpo_trainer
    before, trl.hash_module = trl.hash_module, lambda module: ""
    try:
        yield
    finally:
        trl.hash_module = before


def _leave_inputs(model: Any) -> None:
    """Keep peft from turning what its factors are given into float32: autocast turns it back."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def _with_whole_batches(config: DPOConfig) -> DPOConfig:
    """Let a batch be all the pairs of an optimiser step, which the trainer takes part by part.

    Where an incomplete batch is dropped, trl means one that it loads.
    """
    if not config.dataloader_drop_last:
        config.per_device_train_batch_size *= config.gradient_accumulation_steps
        config.gradient_accumulation_steps = 1
    return config


def pair_dataset(pairs: Sequence[TokenPair], reference: PairLogProbs) -> Dataset:
    """Lay pairs out as trl's trainer takes them, with the reference's log-probabilities."""
    columns = {
        "prompt_ids": _lists([pair.prompt_ids for pair in pairs]),
        "chosen_ids": _lists([pair.chosen_ids for pair in pairs]),
        "rejected_ids": _lists([pair.rejected_ids for pair in pairs]),
        "ref_chosen_logps": pa.array(reference.chosen.numpy()),
        "ref_rejected_logps": pa.array(reference.rejected.numpy()),
    }
    return Dataset(pa.table(columns))


def _lists(rows: Sequence[Sequence[int]]) -> pa.Array:
    """Make a column of lists without a Python object per token."""
    ends = np.cumsum([0, *map(len, rows)])
    values = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))


@contextmanager
def explained() -> Iterator[None]:
    """Say what to change where memory runs out or trl refuses a setting only when it trains."""
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks a transformers 5 model under the older name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            # Such a checkpoint is refused by its name.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError.
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            "Memory ran out: lower per_device_train_batch_size (a step keeps its pairs), lower "
            "--max-length, or set activation_checkpointing=true."
        ) from error
    except (ValueError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"trl cannot train with these settings: {reason}") from error
