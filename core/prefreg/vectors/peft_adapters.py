"""PEFT's LoRA adapters: read into factors, strictly, and factors written as one of them."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor, read_json_object
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.checkpoints.tensor_names import TRAINABLE_DTYPES, on_disk_names
from prefreg.errors import BaseModelError, VectorError, listed, one_line
from prefreg.vectors.lowrank import FactorMap, Factors
from prefreg.vectors.tensors import read_tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
METADATA: Mapping[str, str] = {"format": "pt"}
"""What PEFT writes into the metadata of its weight files."""

Value = TypeVar("Value")

_PREFIX = "base_model.model."
_FACTOR = re.compile(re.escape(_PREFIX) + r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

# The names are those of PEFT 0.21. Those of training alone do not matter here.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA rescales whole weights, which no product of two factors does",
    "lora_bias": "it trains biases beside the factors",
    "modules_to_save": "it holds whole modules beside the factors",
    "trainable_token_indices": "it holds embeddings of single tokens beside the factors",
    "layer_replication": "it repeats layers, so it fits no checkpoint of the base",
    "alora_invocation_tokens": "it acts on a part of the tokens only",
    "use_qalora": "it belongs to a quantised base",
    "target_parameters": "it changes parameters that are no linear layers",
}
# Other ways to begin also change the base's own weights, so that the factors fit no checkpoint.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_NOTHING: tuple[Any, ...] = (None, False, "", [], {}, ())


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer that LoRA can be put on."""

    module: str
    """Its name in memory, as in `model.layers.0.self_attn.q_proj`."""
    weight: str
    """The name of its weight on disk."""
    shape: tuple[int, ...]
    """Of the weight on disk."""
    transposed: bool
    """Whether the weight is (inputs, outputs), as in GPT-2, and not the other way round."""
    output: bool
    """Whether it is the head, which adapters leave alone unless told otherwise."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The configuration of an adapter that is nothing but two factors per layer."""

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    targets: tuple[str, ...] | str | None
    excluded: tuple[str, ...] | str | None
    partial: bool
    """Whether some layers of those that the targets name are left out by their number."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the configuration of an adapter."""
        path = folder / CONFIG_FILE
        values = read_json_object(
            path,
            absent="no PEFT adapter",
            advice="Save the adapter again.",
            error=VectorError,
        )
        if values.get("peft_type") != "LORA":
            raise VectorError(
                f"{folder} holds an adapter of type {values.get('peft_type')!r}; "
                "only LORA has the form of two factors."
            )
        if problems := list(_problems(values)):
            raise VectorError(
                f"{folder} cannot be taken exactly: {'; '.join(problems)}. "
                "Merge the adapter into its base and import the checkpoint."
            )
        try:
            return cls(
                path=path,
                rank=_positive(values["r"]),
                alpha=float(values["lora_alpha"]),
                rank_pattern=_pattern(values.get("rank_pattern"), _positive),
                alpha_pattern=_pattern(values.get("alpha_pattern"), float),
                rslora=bool(values.get("use_rslora")),
                targets=_selection(values.get("target_modules")),
                excluded=_selection(values.get("exclude_modules")),
                partial=values.get("layers_to_transform") is not None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
            raise VectorError(
                f"{path} is damaged ({type(error).__name__}: {error}). Save the adapter again."
            ) from error

    def rank_of(self, module: str) -> int:
        """Return the rank that a module's factors must have."""
        return _patterned(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return what the product of a module's factors is multiplied by."""
        rank = self.rank_of(module)
        alpha = _patterned(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def expected(self, layers: Iterable[LinearLayer]) -> set[str]:
        """Return the modules that the adapter must have factors for, where that can be told."""
        if self.partial or self.targets is None:
            return set()
        return {
            layer.module
            for layer in layers
            if (not layer.output if self.targets == "all-linear" else _names(self.targets, layer))
            and not (self.excluded and _names(self.excluded, layer))
        }


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the names of its base."""

    config: AdapterConfig
    factors: dict[str, Factors]
    """By the names of the weights on disk, with the scaling in `a`."""


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Read an adapter that was trained on `base`."""
    config = AdapterConfig.read(folder)
    layers = linear_layers(base)
    found = _sides(folder)
    _require_fit(folder, config, found, layers)
    factors = {}
    for module, sides in sorted(found.items()):
        part = Factors(read_tensor(sides["B"]).float(), read_tensor(sides["A"]).float())
        part = part.scaled(config.scaling_of(module))
        layer = layers[module]
        factors[layer.weight] = part.transposed() if layer.transposed else part
    return Adapter(config, factors)


def linear_layers(base: Checkpoint) -> dict[str, LinearLayer]:
    """Return the linear layers of a base by their names in memory, in the model's order.

    Heads that are tied to the embeddings are left out: their weight is not their own. The model
    is built without its weights, from its configuration alone.
    """
    # Slow to import, and only adapters need it.
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    # Its annotations leave `from_config` out.
    factory: Any = AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model = factory.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise BaseModelError(
            f"The layers of {base.path} cannot be told from its configuration: "
            f"{one_line(str(error))}"
        ) from error
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    stored = on_disk_names(shapes, model.base_model_prefix, base)
    head = model.get_output_embeddings()
    return {
        name: LinearLayer(
            module=name,
            weight=stored[f"{name}.weight"],
            shape=shapes[f"{name}.weight"],
            transposed=isinstance(module, Conv1D),
            output=module is head,
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and f"{name}.weight" in stored
    }


def adapter_tensors(
    factors: FactorMap, layers: Mapping[str, LinearLayer]
) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's weight file; `layers` are those of the base."""
    known = _by_weight(layers)
    tensors = {}
    for weight, part in factors.items():
        layer = known[weight]
        turned = part.transposed() if layer.transposed else part
        tensors[f"{_PREFIX}{layer.module}.lora_A.weight"] = turned.a.contiguous()
        tensors[f"{_PREFIX}{layer.module}.lora_B.weight"] = turned.b.contiguous()
    return tensors


def adapter_config(
    factors: FactorMap, layers: Mapping[str, LinearLayer], *, base: str, revision: str | None
) -> bytes:
    """Return the adapter's configuration: alpha is the rank in every module, so the scaling is 1.

    Where ranks differ, `r` is the largest, which is what servers reserve room for.
    """
    known = _by_weight(layers)
    ranks = {known[weight].module: part.rank for weight, part in factors.items()}
    largest = max(ranks.values())
    smaller = {module: rank for module, rank in sorted(ranks.items()) if rank != largest}
    config: dict[str, Any] = {
        "alpha_pattern": smaller,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": any(known[weight].transposed for weight in factors),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": largest,
        "rank_pattern": smaller,
        "revision": revision,
        "target_modules": _targets(set(ranks), set(layers)),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _by_weight(layers: Mapping[str, LinearLayer]) -> dict[str, LinearLayer]:
    """Return layers by the names of their weights on disk."""
    return {layer.weight: layer for layer in layers.values()}


def _problems(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in sorted(values.items()):
        if name in _REFUSED:
            if value not in _NOTHING:
                yield f"{name} is set, and {_REFUSED[name]}"
        elif name == "bias":
            if value not in ("none", None):
                yield f"bias is {value!r}, and biases have no factors"
        elif name not in _HARMLESS and value not in _NOTHING:
            yield f"the setting {name} is not known here, so it may change what the factors mean"
    beginning = values.get("init_lora_weights")
    if beginning not in _PLAIN_BEGINNINGS:
        yield (
            f"init_lora_weights is {beginning!r}, which changed the base; "
            "save it with PEFT's conversion to plain LoRA"
        )


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no rank")
    return value


def _pattern(values: Any, kind: Callable[[Any], Value]) -> dict[str, Value]:
    # An expression that does not compile is told here, where the file's name is known.
    return {re.compile(key).pattern: kind(value) for key, value in (values or {}).items()}


def _selection(value: Any) -> tuple[str, ...] | str | None:
    if isinstance(value, str):
        return re.compile(value).pattern
    return None if value is None else tuple(map(str, value))


def _patterned(pattern: Mapping[str, Value], module: str, default: Value) -> Value:
    # As PEFT reads them: each key is a regular expression for the end of a name.
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _names(selection: tuple[str, ...] | str, layer: LinearLayer) -> bool:
    if isinstance(selection, str):
        return re.fullmatch(selection, layer.module) is not None
    return any(layer.module == name or layer.module.endswith(f".{name}") for name in selection)


def _sides(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """Return the stored factors by module and side."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = " (an adapter_model.bin is no substitute)" * any(folder.glob("*.bin"))
        raise VectorError(f"{folder} has no {WEIGHTS_FILE}{pickled}. Save it as safetensors.")
    found: dict[str, dict[str, StoredTensor]] = {}
    unknown = []
    for name, spec in read_header(path, VectorError).tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or spec.dtype not in TRAINABLE_DTYPES:
            unknown.append(name)
        else:
            found.setdefault(match["module"], {})[match["side"]] = StoredTensor(path, spec)
    if unknown:
        raise VectorError(
            f"{path} holds {listed(unknown)}, which are no float factors of linear layers. "
            "Train LoRA on linear layers only, not on embeddings or whole modules."
        )
    if not found:
        raise VectorError(f"{path} holds no factors. Save the adapter again.")
    return found


def _require_fit(
    folder: Path,
    config: AdapterConfig,
    found: Mapping[str, Mapping[str, StoredTensor]],
    layers: Mapping[str, LinearLayer],
) -> None:
    halves = [module for module, sides in found.items() if len(sides) != 2]
    missing = (config.expected(layers.values()) - found.keys()) | set(halves)
    unexpected = found.keys() - layers.keys()
    mismatched = [
        f"{module} ({shapes})"
        for module, sides in found.items()
        if module in layers and module not in halves
        if (shapes := _mismatch(sides, layers[module], config.rank_of(module)))
    ]
    problems = [
        f"{what} {listed(modules)}"
        for what, modules in (
            ("it lacks factors of", missing),
            ("the base has no linear layer of its own called", unexpected),
            ("of other shapes are", mismatched),
        )
        if modules
    ]
    if problems:
        raise VectorError(
            f"{folder} does not fit its base or its configuration: {'; '.join(problems)}. "
            "Name the base that it was trained on."
        )


def _mismatch(sides: Mapping[str, StoredTensor], layer: LinearLayer, rank: int) -> str | None:
    outputs, inputs = layer.shape[::-1] if layer.transposed else layer.shape
    a, b = sides["A"].spec.shape, sides["B"].spec.shape
    if (a, b) == ((rank, inputs), (outputs, rank)):
        return None
    return f"B {list(b)}, A {list(a)} for {[outputs, rank]}, {[rank, inputs]}"


def _targets(modules: set[str], known: set[str]) -> list[str]:
    """Name the modules as people do, by their last part, where that selects the very same ones."""
    short = {module.rpartition(".")[2] for module in modules}
    selected = {module for module in known if module.rpartition(".")[2] in short}
    return sorted(short if selected == modules else modules)
