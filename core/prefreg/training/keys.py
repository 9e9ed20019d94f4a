"""Which settings of trl's configurations are prefreg's own, and what values the others take."""

import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from prefreg.errors import UsageError

SEED = "it follows from --seed"
SHARED = "one reference pass serves both poles"
FIXED = "the reference is the base and stays so"
TOKENS = "prefreg writes the tokens itself, and counts what it cuts"
HELDOUT = "held-out pairs are scored after training, for both poles alike"
KEPT = "nothing but the vector is kept, in the registry"
RESUME = "a run starts from the base and is not resumed"
RECORD = "prefreg records every step in the version, and shows progress unless -q"
LOAD = "prefreg loads the base, in float32 and without remote code"
ORDER = "the order of pairs follows from --seed, the same for both poles"
ALONE = "prefreg trains in one process"

OWN: Mapping[str, str] = {
    "output_dir": KEPT,
    "push_to_hub": KEPT,
    "do_train": "add-axis trains",
    "do_eval": HELDOUT,
    "do_predict": HELDOUT,
    "seed": SEED,
    "data_seed": SEED,
    "full_determinism": "runs are deterministic already",
    "precompute_ref_log_probs": SHARED,
    "precompute_ref_batch_size": SHARED,
    "sync_ref_model": FIXED,
    "ref_model_mixup_alpha": FIXED,
    "ref_model_sync_steps": FIXED,
    "truncation_mode": TOKENS,
    "pad_token": TOKENS,
    "padding_free": TOKENS,
    "dataset_num_proc": TOKENS,
    "remove_unused_columns": TOKENS,
    "label_names": TOKENS,
    "label_smoothing_factor": "DPO ignores it; label_smoothing is the one that works",
    "length_column_name": ORDER,
    "train_sampling_strategy": ORDER,
    "auto_find_batch_size": "it would change the batch size in silence",
    "model_init_kwargs": LOAD,
    "trust_remote_code": LOAD,
    "per_device_eval_batch_size": HELDOUT,
    "prediction_loss_only": HELDOUT,
    "include_for_metrics": HELDOUT,
    "batch_eval_metrics": HELDOUT,
    "bf16_full_eval": HELDOUT,
    "fp16_full_eval": HELDOUT,
    "load_best_model_at_end": KEPT,
    "metric_for_best_model": KEPT,
    "greater_is_better": KEPT,
    "enable_jit_checkpoint": KEPT,
    "resume_from_checkpoint": RESUME,
    "ignore_data_skip": RESUME,
    "restore_callback_states_from_checkpoint": RESUME,
    "report_to": RECORD,
    "run_name": RECORD,
    "project": RECORD,
    "disable_tqdm": RECORD,
    "debug": RECORD,
    "skip_memory_metrics": RECORD,
    "include_num_input_tokens_seen": RECORD,
    "deepspeed": ALONE,
    "accelerator_config": ALONE,
    "parallelism_config": ALONE,
    "local_rank": ALONE,
    "average_tokens_across_devices": ALONE,
    "use_cache": "training keeps no key-value cache",
    "use_liger_kernel": "trl is about to remove it",
    "liger_kernel_config": "trl is about to remove it",
}
OWN_PREFIXES: Mapping[str, str] = {
    "eval_": HELDOUT,
    "save_": KEPT,
    "hub_": KEPT,
    "log_": RECORD,
    "logging_": RECORD,
    "trackio_": RECORD,
    "ddp_": ALONE,
    "fsdp": ALONE,
}

_POSITIVE = {
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "beta",
    "adam_epsilon",
}
_NOT_NEGATIVE = {"weight_decay", "warmup_steps", "max_grad_norm", "dataloader_num_workers"}
_BELOW_ONE = {"adam_beta1", "adam_beta2", "label_smoothing"}


def refusal(
    name: str, own: Mapping[str, str] = OWN, prefixes: Mapping[str, str] = OWN_PREFIXES
) -> str | None:
    """Return why prefreg sets `name` itself, or None where the user may."""
    if reason := own.get(name):
        return reason
    return next((reason for prefix, reason in prefixes.items() if name.startswith(prefix)), None)


def check_value(name: str, value: Any, annotation: Any, where: str) -> Any:
    """Return the value in the type of its setting.

    YAML reads `1e-6` as text, as it wants a dot in a number; here it is a number.

    Raises:
        UsageError: The value is of another type or out of range.
    """
    for kind in _alternatives(annotation):
        fitted = _fit(value, kind)
        if fitted is not _MISFIT:
            break
    else:
        raise UsageError(f"{where}: {name}={value!r} is not {_named(annotation)}.")
    if problem := _range_problem(name, fitted):
        raise UsageError(f"{where}: {name}={value!r} {problem}.")
    return fitted


_MISFIT = object()


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        # Numbers before text: "1e-6" fits both.
        return tuple(sorted(get_args(annotation), key=lambda kind: kind is str))
    return (annotation,)


def _fit(value: Any, kind: Any) -> Any:
    kind = get_origin(kind) or kind
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return _MISFIT
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return _MISFIT
    if kind is list and isinstance(value, str):
        return [value]  # as in loss_type=sigmoid
    if kind in (bool, int, float, str, list, dict, types.NoneType):
        return value if isinstance(value, kind) else _MISFIT
    # An enumeration, which DPOConfig checks by its value.
    return value if isinstance(value, str) else _MISFIT


def _range_problem(name: str, value: Any) -> str | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if not math.isfinite(value):
        return "is not finite"
    if name in _POSITIVE and value <= 0:
        return "must be above zero"
    if name in _NOT_NEGATIVE and value < 0:
        return "must not be negative"
    if name in _BELOW_ONE and not 0 <= value < 1:
        return "must lie in [0, 1)"
    if name == "max_steps" and value < 1 and value != -1:
        return "must be at least 1, or -1 to count epochs"
    if name == "max_length" and value < 2:
        return "leaves no room for an answer"
    return None


_NAMES: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
}


def _named(annotation: Any) -> str:
    kinds = [get_origin(kind) or kind for kind in _alternatives(annotation)]
    return " or ".join(dict.fromkeys(_NAMES.get(kind, "text") for kind in kinds))
