"""The settings of a run: `--set` over `--config` over `--preset` over the base's default."""

import dataclasses
import difflib
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Union, get_args, get_origin

import torch
import yaml
from trl.trainer.dpo_config import DPOConfig

from prefreg.errors import UsageError, listed
from prefreg.plain_yaml import load_yaml, read_assignments
from prefreg.values import MAX_SEED, read_small

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
ALONE = "how processes share the work follows from torchrun or accelerate, and --shard"

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
    "chat_template_kwargs": "--template-option tells it to the chat template",
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


def check_value(name: str, value: Any, annotation: Any, where: str) -> Any:
    """Return the value in the type of its setting.

    YAML reads `1e-6` as text, as it wants a dot in a number; here it is a number.
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
        return float(value) if abs(value) <= MAX_SEED else math.inf
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
    if isinstance(value, int) and abs(value) > MAX_SEED:
        return f"is out of measure: {MAX_SEED} is the most"
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


_LOSS_NAMES = frozenset({"loss_type", "loss_weights"})
_PREFERRING = {"beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef"}
POLES: Mapping[str, tuple[Mapping[str, Any], frozenset[str]]] = MappingProxyType(
    {
        # Rafailov et al., Direct Preference Optimization, 2023.
        "dpo": ({}, frozenset()),
        # Contrastive fine-tuning: θ₊ on the chosen answers, θ₋, of the switched pairs, on the
        # rejected ones. The loss is of the answers' tokens, each weighing the same in its part.
        "sft": ({"loss_type": ["sft"]}, _LOSS_NAMES | _PREFERRING),
    }
)
"""By the kind of poles: the settings that make it, and those that then decide nothing."""

BATCH, ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"
"""Their product is the pairs of a step."""

LEARNING_RATE_FACTOR = 10
"""LoRA learns best at about ten times the learning rate of whole weights, whatever the rank
(Schulman et al., LoRA Without Regret, 2025)."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The paper's table: 4 pairs a device × 4 accumulated × 8 devices are 128 pairs a step.
        # A step has as many, whatever the number of processes: accumulation stands in for devices.
        "paper": {
            "num_train_epochs": 2.0,
            "max_steps": -1,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 32,
            "learning_rate": 1e-6,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "weight_decay": 0.05,
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "beta": 0.1,
        },
        # A first look at an axis: fewer and larger steps, 960 pairs at most.
        "quick": {
            "num_train_epochs": 1.0,
            "max_steps": 60,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-5,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "weight_decay": 0.0,
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "max_grad_norm": 1.0,
            "max_length": 512,
            "beta": 0.1,
        },
    }
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved settings, as names and values of DPOConfig."""

    values: Mapping[str, Any]
    asked: frozenset[str]
    """The names that the user set, which nothing adjusts in silence."""

    def max_length(self, context: int | None) -> int:
        """Return the maximum length; a default gives way to a shorter context of the model."""
        length = int(self.values["max_length"])
        if context is not None and "max_length" not in self.asked:
            return min(length, context)
        return length

    def to_json(self) -> dict[str, Any]:
        """Return the settings sorted by name."""
        return dict(sorted(self.values.items()))


@dataclass(frozen=True, slots=True)
class Family:
    """One of trl's configurations: whose names settings have, and what they begin from."""

    config: type
    presets: Mapping[str, Mapping[str, Any]]
    """`paper` lies below all other layers, and has a value for whatever prefreg reads."""
    own: Mapping[str, str]
    """What prefreg sets itself, with the reasons."""
    own_prefixes: Mapping[str, str]
    make: Callable[..., object]
    """Make a configuration of settings, which may refuse what they are together."""

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return self.config.__name__

    def refusal(self, name: str) -> str | None:
        """Return why prefreg sets `name` itself, or None where the user may."""
        if reason := self.own.get(name):
            return reason
        prefixes = self.own_prefixes.items()
        return next((reason for prefix, reason in prefixes if name.startswith(prefix)), None)


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
    if cpu and values.get("fp16"):
        raise UsageError("fp16 needs a GPU: a CPU trains in float32, or in bfloat16 with bf16.")
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
        if name not in settings.values and not DPO.refusal(name)
    }


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


DPO = Family(DPOConfig, PRESETS, OWN, OWN_PREFIXES, dpo_config)


def resolve_settings(
    *,
    family: Family = DPO,
    assignments: Sequence[str] | Mapping[str, Any] = (),
    config: Path | None = None,
    preset: str | None = None,
    default: Mapping[str, object] | None = None,
    max_length: int | None = None,
    lora: bool = False,
    poles: str = "dpo",
) -> Settings:
    """Merge the layers of settings and check every value; those of DPO unless told otherwise.

    `default` is the base's own and lies over the paper's; `max_length` is that of the option.
    The kind of `poles` may fix some, and leave others without effect, which are then refused.
    LoRA takes a higher learning rate than the presets and defaults, which are for whole weights,
    unless the user sets one. Of batch and accumulation, the one that nobody asks for makes up for
    the other, so that a step has as many pairs as before.
    """
    asked: list[Mapping[str, Any]] = []
    if config is not None:
        asked.append(_checked(read_config(config), str(config), family))
    asked.append(_checked(read_assignments(assignments), "--set", family))
    if max_length is not None:
        given = {value["max_length"] for value in asked if "max_length" in value}
        if given - {max_length}:
            raise UsageError(
                f"--max-length {max_length} and max_length={given.pop()} contradict each other: "
                "give one of them."
            )
        asked.append(_checked({"max_length": max_length}, "--max-length", family))
    names = frozenset(name for layer in asked for name in layer)
    fixed, idle = POLES[poles]
    if useless := names & idle:
        raise UsageError(f"With --poles {poles}, leave {listed(useless)} out: it decides nothing.")
    lower = _preset(preset, family) if preset is not None else dict(default or {})
    values: dict[str, Any] = dict(family.presets["paper"])
    if lora:
        rate: Any = lower.get("learning_rate", values["learning_rate"])
        lower = {**lower, "learning_rate": rate * LEARNING_RATE_FACTOR}
    for layer in (lower, fixed, *asked):
        if "num_train_epochs" in layer and "max_steps" not in layer:
            values["max_steps"] = -1  # else the steps of a lower layer would win over the epochs
        values |= layer
    settings = Settings(values, names)
    _keep_pairs_per_step(values, {**family.presets["paper"], **lower}, settings.asked)
    _try(settings, family)
    return settings


def _keep_pairs_per_step(
    values: dict[str, Any], before: Mapping[str, Any], asked: frozenset[str]
) -> None:
    given = [name for name in (BATCH, ACCUMULATED) if name in asked]
    if len(given) == 1:
        (other,) = {BATCH, ACCUMULATED} - set(given)
        pairs = int(before[BATCH]) * int(before[ACCUMULATED])
        values[other] = max(1, round(pairs / int(values[given[0]])))


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings."""
    try:
        content = load_yaml(read_small(path, UsageError).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path} is not a YAML mapping of setting to value.")
    return content


def _preset(name: str, family: Family) -> Mapping[str, Any]:
    if name not in family.presets:
        known = ", ".join(family.presets)
        raise UsageError(f"There is no preset {name!r}. There are: {known}.")
    return family.presets[name]


def _checked(values: Mapping[str, Any], where: str, family: Family) -> dict[str, Any]:
    """Check names and types of what the user set; return the values in their types."""
    if not values:
        return {}
    types = config_types(family)
    checked = {}
    for name, value in values.items():
        if reason := family.refusal(name):
            raise UsageError(f"{where}: {name!r} is prefreg's own setting: {reason}.")
        if name not in types:
            free = [key for key in types if not family.refusal(key)]
            near = difflib.get_close_matches(name, free, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{where}: {family.name} has no setting {name!r}.{hint}")
        checked[name] = check_value(name, value, types[name], where)
    return checked


def config_types(family: Family = DPO) -> dict[str, Any]:
    """Return the settings that a configuration knows, with their annotations."""
    return {field.name: field.type for field in dataclasses.fields(family.config) if field.init}


def _try(settings: Settings, family: Family) -> None:
    """Let the configuration judge the combination of values."""
    try:
        family.make(settings, output_dir="unused", seed=0, max_length=2)
    except UsageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{family.name} refuses these settings: {reason}") from error
