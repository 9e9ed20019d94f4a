"""PEFT's LoRA adapters: read into factors, strictly, and factors written as one of them."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import regex
import torch

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor, read_json_object
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.checkpoints.tensor_names import TRAINABLE_DTYPES
from prefreg.errors import VectorError, listed
from prefreg.vectors.lowrank import FactorMap, Factors
from prefreg.vectors.stored import blocks
from prefreg.vectors.tensors import read_block, read_tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
METADATA: Mapping[str, str] = {"format": "pt"}
"""What PEFT writes into the metadata of its weight files."""

Value = TypeVar("Value")

_PREFIX = "base_model.model."
_FACTOR = re.compile(
    re.escape(_PREFIX) + r"(?P<module>.+)\.lora_((?P<side>[AB])\.weight|embedding_(?P<table>[AB]))"
)
_WHOLE = re.compile(re.escape(_PREFIX) + r"(?P<module>.+?)(\.base_layer)?\.(?P<name>weight|bias)")
MATCHING_SECONDS = 5.0
"""What the regular expressions of a configuration may take in all."""

# The names are those of PEFT 0.21. Those of training alone do not matter here.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA rescales whole weights, which no product of two factors does",
    "lora_bias": "it trains biases beside the factors",
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
class LoraLayer:
    """A layer whose weight LoRA changes by a product of two factors."""

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
    embedding: bool = False
    """Whether it is a table of embeddings, which they leave alone too."""


@dataclass(slots=True)
class _Matching:
    """Matches names against the expressions of a configuration, for a bounded time in all."""

    path: Path
    left: float

    def __call__(self, pattern: "regex.Pattern[str]", name: str) -> bool:
        """Whether the whole name is what the pattern says."""
        started = time.process_time()
        try:
            return pattern.fullmatch(name, timeout=max(self.left, 1e-6)) is not None
        except TimeoutError:
            raise VectorError(
                f"{self.path}: its regular expressions take too long on the names of the base's "
                "layers. List the modules by their names."
            ) from None
        finally:
            self.left -= time.process_time() - started


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The configuration of an adapter that is nothing but two factors per layer."""

    path: Path
    rank: int
    alpha: float
    rank_pattern: "Mapping[regex.Pattern[str], int]"
    alpha_pattern: "Mapping[regex.Pattern[str], float]"
    rslora: bool
    all_linear: bool
    targets: "tuple[str, ...] | regex.Pattern[str] | None"
    excluded: "tuple[str, ...] | regex.Pattern[str] | None"
    partial: bool
    """Whether some layers of those that the targets name are left out by their number."""
    matching: _Matching

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
                all_linear=values.get("target_modules") == "all-linear",
                targets=_selection(values.get("target_modules")),
                excluded=_selection(values.get("exclude_modules")),
                partial=values.get("layers_to_transform") is not None,
                matching=_Matching(path, MATCHING_SECONDS),
            )
        except (
            *(KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError),
            regex.error,
        ) as error:
            raise VectorError(
                f"{path} is damaged ({type(error).__name__}: {error}). Save the adapter again."
            ) from error

    def rank_of(self, module: str) -> int:
        """Return the rank that a module's factors must have."""
        return self._patterned(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return what the product of a module's factors is multiplied by."""
        rank = self.rank_of(module)
        alpha = self._patterned(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def expected(self, layers: Iterable[LoraLayer]) -> set[str]:
        """Return the modules that the adapter must have factors for, where that can be told."""
        if self.partial or self.targets is None:
            return set()
        return {
            layer.module
            for layer in layers
            if (
                not layer.output and not layer.embedding
                if self.all_linear
                else self._selects(self.targets, layer)
            )
            and not (self.excluded and self._selects(self.excluded, layer))
        }

    def _patterned(
        self, pattern: "Mapping[regex.Pattern[str], Value]", module: str, default: Value
    ) -> Value:
        return next((pattern[key] for key in pattern if self.matching(key, module)), default)

    def _selects(self, selection: "tuple[str, ...] | regex.Pattern[str]", layer: LoraLayer) -> bool:
        if isinstance(selection, tuple):
            return any(f".{layer.module}".endswith(f".{name}") for name in selection)
        return self.matching(selection, layer.module)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the names of its base."""

    config: AdapterConfig
    factors: dict[str, Factors]
    """By the names of the weights on disk, with the scaling in `a`."""


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Read an adapter that was trained on `base`."""
    config = AdapterConfig.read(folder)
    model, stored = _outline(base)
    layers = _layers(model, stored)
    found = _sides(folder, base, stored)
    _require_fit(folder, config, found, layers)
    factors = {}
    for module, sides in sorted(found.items()):
        part = Factors(read_tensor(sides["B"]).float(), read_tensor(sides["A"]).float())
        part = part.scaled(config.scaling_of(module))
        layer = layers[module]
        factors[layer.weight] = part.transposed() if layer.transposed else part
    return Adapter(config, factors)


def lora_layers(base: Checkpoint) -> dict[str, LoraLayer]:
    """Return the linear layers and embeddings of a base by their names in memory, in its order.

    A head and embeddings that share one weight are left out: it is not their own. The model is
    built without its weights, from its configuration alone. Layers that PEFT refuses in this
    architecture are left out, too: it could load no adapter of them.
    """
    model, stored = _outline(base)
    layers = _layers(model, stored)
    refused = _refused_by_peft(model, layers.values())
    return {name: layer for name, layer in layers.items() if _last(name) not in refused}


def linear_layers(base: Checkpoint) -> dict[str, LoraLayer]:
    """Return the linear layers of a base; see `lora_layers`."""
    return {name: layer for name, layer in lora_layers(base).items() if not layer.embedding}


def _outline(base: Checkpoint) -> "tuple[PreTrainedModel, dict[str, str]]":
    """Return a base without its numbers, and where each of its parameters is stored."""
    # Slow to import, and only adapters need it.
    from prefreg.models.loading import empty_model, stored_names

    model = empty_model(base)
    names = stored_names(model, base, whole=False)
    known = {id(parameter): names.get(name) for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return model, {name: stored for name, each in every if (stored := known[id(each)])}


def _layers(model: "PreTrainedModel", stored: Mapping[str, str]) -> dict[str, LoraLayer]:
    from transformers.pytorch_utils import Conv1D

    head = cast(Any, model).get_output_embeddings()  # it carries no types
    own = stored.keys() & {name for name, _ in model.named_parameters()}
    uses = Counter(stored.values())
    return {
        name: LoraLayer(
            module=name,
            weight=stored[f"{name}.weight"],
            shape=tuple(module.weight.shape),
            # PEFT lays the factors of embeddings as if a token were an input.
            transposed=not isinstance(module, torch.nn.Linear),
            output=module is head,
            embedding=type(module) is torch.nn.Embedding,
        )
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear | Conv1D) and f"{name}.weight" in own)
        # Embeddings of other kinds scale what they look up, which PEFT did not always heed.
        or (type(module) is torch.nn.Embedding and uses[stored.get(f"{name}.weight", "")] == 1)
    }


def _refused_by_peft(model: "PreTrainedModel", layers: Iterable[LoraLayer]) -> set[str]:
    """Return the last parts of names that PEFT puts no factors on, as it says when it is tried."""
    # It takes a second to import, and most commands need no adapter.
    from peft import LoraConfig, inject_adapter_in_model

    linear = [layer for layer in layers if not layer.embedding and not layer.output]

    def takes(names: set[str]) -> bool:
        config = LoraConfig(
            r=1,
            target_modules=[layer.module for layer in linear if _last(layer.module) in names],
            fan_in_fan_out=any(layer.transposed for layer in linear),
            init_lora_weights=False,
        )
        try:
            inject_adapter_in_model(config, deepcopy(model))
        except ValueError:
            return False
        return True

    kinds = {_last(layer.module) for layer in linear}
    return set() if takes(kinds) else {kind for kind in kinds if not takes({kind})}


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def adapter_tensors(factors: FactorMap, layers: Mapping[str, LoraLayer]) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's weight file; `layers` are those of the base.

    Zeros bring all modules to one rank: llama.cpp and others know no rank of a single module.
    """
    known = _by_weight(layers)
    rank = max(part.rank for part in factors.values())
    tensors = {}
    for weight, part in factors.items():
        layer = known[weight]
        turned = (part.transposed() if layer.transposed else part).padded(rank)
        kind = "lora_embedding_{}" if layer.embedding else "lora_{}.weight"
        for side, tensor in (("A", turned.a), ("B", turned.b)):
            tensors[f"{_PREFIX}{layer.module}.{kind.format(side)}"] = tensor.contiguous()
    return tensors


def adapter_config(
    factors: FactorMap, layers: Mapping[str, LoraLayer], *, base: str, revision: str | None
) -> bytes:
    """Return the adapter's configuration: alpha is the rank, so the scaling is 1."""
    known = _by_weight(layers)
    changed = [known[weight] for weight in factors]
    rank = max(part.rank for part in factors.values())
    config: dict[str, Any] = {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": any(layer.transposed and not layer.embedding for layer in changed),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": revision,
        "target_modules": _targets({layer.module for layer in changed}, set(layers)),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _by_weight(layers: Mapping[str, LoraLayer]) -> dict[str, LoraLayer]:
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


def _pattern(values: Any, kind: Callable[[Any], Value]) -> "dict[regex.Pattern[str], Value]":
    # As PEFT reads them: each key is a regular expression for the end of a name.
    return {regex.compile(rf"(.*\.)?({key})"): kind(value) for key, value in (values or {}).items()}


def _selection(value: Any) -> "tuple[str, ...] | regex.Pattern[str] | None":
    if isinstance(value, str):
        return regex.compile(value)
    return None if value is None else tuple(map(str, value))


def _sides(
    folder: Path, base: Checkpoint, stored: Mapping[str, str]
) -> dict[str, dict[str, StoredTensor]]:
    """Return the stored factors by module and side.

    PEFT also saves the embeddings and the head that it put factors on: as they are in the base,
    they say nothing.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = " (an adapter_model.bin is no substitute)" * any(folder.glob("*.bin"))
        raise VectorError(f"{folder} has no {WEIGHTS_FILE}{pickled}. Save it as safetensors.")
    found: dict[str, dict[str, StoredTensor]] = {}
    unknown, whole = [], []
    for name, spec in read_header(path, VectorError).tensors.items():
        factor, other = _FACTOR.fullmatch(name), _WHOLE.fullmatch(name)
        tensor = StoredTensor(path, spec)
        if factor is not None and spec.dtype in TRAINABLE_DTYPES:
            side = factor["side"] or factor["table"]
            found.setdefault(factor["module"], {})[side] = tensor
        elif other is None or (weight := f"{other['module']}.{other['name']}") not in stored:
            unknown.append(name)
        elif not _equal(tensor, base.tensors[stored[weight]]):
            whole.append(name)
    if unknown:
        raise VectorError(
            f"{path} holds {listed(unknown)}, which are no float factors of linear layers or "
            "embeddings. Train LoRA on these only."
        )
    if whole:
        raise VectorError(
            f"{path} holds {listed(whole)} whole, and other than in the base. Merge the adapter "
            "into its base and import the checkpoint."
        )
    if not found:
        raise VectorError(f"{path} holds no factors. Save the adapter again.")
    return found


def _require_fit(
    folder: Path,
    config: AdapterConfig,
    found: Mapping[str, Mapping[str, StoredTensor]],
    layers: Mapping[str, LoraLayer],
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
            ("the base has no layer of its own called", unexpected),
            ("of other shapes are", mismatched),
        )
        if modules
    ]
    if problems:
        raise VectorError(
            f"{folder} does not fit its base or its configuration: {'; '.join(problems)}. "
            "Name the base that it was trained on."
        )


def _equal(saved: StoredTensor, base: StoredTensor) -> bool:
    """Whether a saved tensor is that of the base, in the dtype that it was saved in."""
    if saved.spec.shape != base.spec.shape or saved.spec.dtype not in TRAINABLE_DTYPES:
        return False
    for start, stop in blocks(saved.spec.elements):
        part = read_block(saved, start, stop)
        if not torch.equal(part, read_block(base, start, stop).to(part.dtype)):
            return False
    return True


def _mismatch(sides: Mapping[str, StoredTensor], layer: LoraLayer, rank: int) -> str | None:
    outputs, inputs = layer.shape[::-1] if layer.transposed else layer.shape
    a, b = sides["A"].spec.shape, sides["B"].spec.shape
    if (a, b) == ((rank, inputs), (outputs, rank)):
        return None
    return f"B {list(b)}, A {list(a)} for {[outputs, rank]}, {[rank, inputs]}"


def _targets(modules: set[str], known: set[str]) -> list[str]:
    """Name the modules as people do, by their last part, where that selects the very same ones."""
    short = {_last(module) for module in modules}
    selected = {module for module in known if _last(module) in short}
    return sorted(short if selected == modules else modules)
