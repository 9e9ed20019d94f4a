"""One pole, trained by TRL: no files, no chatter, and every step on record."""

import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from prefreg.data.rendering import padding_id
from prefreg.data.tokens import TokenPair
from prefreg.errors import Interrupted, TrainingError, UsageError
from prefreg.models.log_probs import PairLogProbs
from prefreg.training.batches import PairTrainer, PartCollator, Shortcuts, choose_shortcuts
from prefreg.training.pole_checkpoints import Checkpoints
from prefreg.training.pole_checks import Watch
from prefreg.training.settings import Settings, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.progress import Steps


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One step of training."""

    step: int
    loss: float
    margin: float
    """Mean reward margin of the step's pairs: β times the margin in nats."""
    grad_norm: float | None = None
    """Before it is clipped."""


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
    watch: Watch | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Steps | None = None,
) -> list[CurvePoint]:
    """Train `model` in place to prefer the chosen answers; the loss starts at log 2.

    With LoRA, an adapter is put on the model, and that alone is trained. Without `shortcuts`,
    those are taken that change nothing. A `watch` stops a pole that collapses, which then has its
    last sound weights. With `checkpoints` the training goes on where an earlier one was ended.
    """
    recorder = _Recorder(progress, watch)
    callbacks: list[TrainerCallback] = [
        one for one in (watch, recorder, checkpoints) if one is not None
    ]
    with ExitStack() as stack:
        stack.enter_context(explained())
        if checkpoints is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="prefreg-"))
        else:
            stack.enter_context(checkpoints.interruptible())
            folder = str(checkpoints.folder)
        config = dpo_config(settings, output_dir=folder, seed=seed, max_length=max_length)
        collator = PartCollator(
            DataCollatorForPreference(pad_token_id=padding_id(tokenizer)),
            size=config.per_device_train_batch_size,
            shortcuts=shortcuts or choose_shortcuts(model, pairs, config),
        )
        trainer = PairTrainer(
            model=model,
            args=_with_whole_batches(config),
            data_collator=collator,
            train_dataset=_dataset(pairs, reference),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        newest = checkpoints.newest() if checkpoints else None
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if checkpoints is not None and checkpoints.interrupted:
        raise Interrupted(
            "Interrupted. What is done is kept: the same command goes on from here "
            "(--fresh starts over)."
        )
    if watch is not None:
        watch.restore()
    return recorder.curve


def dpo_config(settings: Settings, *, output_dir: str, seed: int, max_length: int) -> DPOConfig:
    """Make TRL's configuration of the user's settings and prefreg's own."""
    values = own_arguments(settings, output_dir=output_dir, seed=seed, max_length=max_length)
    return DPOConfig(**values, precompute_ref_log_probs=True)


def own_arguments(
    settings: Settings, *, output_dir: str, seed: int, max_length: int
) -> dict[str, Any]:
    """Return the arguments of each of TRL's configurations: the user's settings under prefreg's."""
    values = _with_one_checkpointing(settings.values)
    cpu = bool(values.get("use_cpu")) or not torch.accelerator.is_available()
    if cpu and (values.get("bf16") or values.get("fp16")):
        raise UsageError("bf16 and fp16 need a GPU: on a CPU, training is in float32.")
    # Float32 unless asked: updates at the paper's learning rate are lost in bfloat16.
    own: dict[str, Any] = {
        "bf16": bool(values.get("bf16")),
        "use_cpu": cpu,
        "dataloader_pin_memory": bool(values.get("dataloader_pin_memory", not cpu)),
        "output_dir": output_dir,
        "seed": seed,
        # Accelerate's sampler is seeded by a constant where this is not set.
        "data_seed": seed,
        "max_length": max_length,
        "pad_to_multiple_of": values.get("pad_to_multiple_of"),
        "report_to": [],
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        # The filter would show the average of earlier losses where one is not finite.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "log_level": "error",
    }
    return values | own


def default_settings(settings: Settings, *, max_length: int) -> dict[str, Any]:
    """Return the values of those settings that the user may set and nobody did."""
    config = dpo_config(settings, output_dir="unused", seed=0, max_length=max_length)
    values = config.to_dict()  # type: ignore[no-untyped-call]
    return {
        name: value
        for name, value in sorted(values.items())
        if name not in settings.values and not refusal(name)
    }


def _with_whole_batches(config: DPOConfig) -> DPOConfig:
    """Let a batch be all the pairs of an optimiser step, which the trainer takes part by part.

    Where an incomplete batch is dropped, trl means one that it loads.
    """
    if not config.dataloader_drop_last:
        config.per_device_train_batch_size *= config.gradient_accumulation_steps
        config.gradient_accumulation_steps = 1
    return config


def _with_one_checkpointing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `gradient_checkpointing`, which trl turns on by default, into its newer name.

    transformers warns of the older one, even where it is false, once it knows the newer.
    """
    values = dict(settings)
    for suffix, default in (("", False), ("_kwargs", None)):
        older, newer = f"gradient_checkpointing{suffix}", f"activation_checkpointing{suffix}"
        value = values.pop(newer, values.pop(older, default))
        values[newer if newer in DPOConfig.__dataclass_fields__ else older] = value
    return values


class _Recorder(TrainerCallback):
    """Keep the curve, pass progress on and stop at a loss that is not finite."""

    def __init__(self, progress: Steps | None, watch: Watch | None) -> None:
        self.curve: list[CurvePoint] = []
        self._progress = progress
        self._watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up the curve of what was trained before."""
        self.curve = [_point(logs["step"], logs) for logs in state.log_history if "loss" in logs]

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        step = int(state.global_step)
        if not math.isfinite(loss) and self._watch is not None and self._watch.checks:
            self._watch.halt(step, f"the loss is {loss}", control)
            return
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {step} of {state.max_steps}: lower learning_rate."
            )
        self.curve.append(_point(step, logs))
        if self._progress:
            self._progress(step, int(state.max_steps), loss)


def _point(step: int, logs: Mapping[str, Any]) -> CurvePoint:
    norm = logs.get("grad_norm")
    return CurvePoint(
        step,
        float(logs["loss"]),
        float(logs["rewards/margins"]),
        None if norm is None or not math.isfinite(norm) else float(norm),
    )


def _dataset(pairs: Sequence[TokenPair], reference: PairLogProbs) -> Dataset:
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
def explained() -> "Iterator[None]":
    """Say what to change where memory runs out or trl refuses a setting only when it trains."""
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks a transformers 5 model under the older name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError.
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            "Memory ran out: lower per_device_train_batch_size (and raise "
            "gradient_accumulation_steps as much), lower --max-length, or set "
            "activation_checkpointing=true."
        ) from error
    except (ValueError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"trl cannot train with these settings: {reason}") from error
