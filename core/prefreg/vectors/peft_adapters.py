"""PEFT's LoRA adapters: read into factors, strictly, and factors written as one of them."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import regex
import torch

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor, read_json_object
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.checkpoints.tensor_names import TRAINABLE_DTYPES
from prefreg.errors import VectorError, listed
from prefreg.vectors.lora_layers import Experts, LoraLayer, LoraLayers, ends, name_of
from prefreg.vectors.lowrank import FactorMap, Factors
from prefreg.vectors.stored import blocks
from prefreg.vectors.tensors import read_block, read_tensor

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
EXPERTS_SINCE = "0.19.0"
"""The PEFT since which factors of experts lie as they do; before, rows were always inputs."""
MATCHING_SECONDS = 5.0
"""What the regular expressions of a configuration may take in all."""

# The names are those of PEFT 0.21. Those of training alone do not matter here.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters",
    "task_type", "use_rslora",
}  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA rescales whole weights, which no product of two factors does",
    "lora_bias": "it trains biases beside the factors",
    "trainable_token_indices": "it holds embeddings of single tokens beside the factors",
    "layer_replication": "it repeats layers, so it fits no checkpoint of the base",
    "alora_invocation_tokens": "it acts on a part of the tokens only",
    "use_qalora": "it belongs to a quantised base",
}
# Other ways to begin also change the base's own weights, so that the factors fit no checkpoint.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_NOTHING: tuple[Any, ...] = (None, False, "", [], {}, ())


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
    parameters: tuple[str, ...]
    """Ends of the names of parameters that are stacks of experts."""
    older: bool
    """Whether factors of experts lie as in PEFT before `EXPERTS_SINCE`."""
    saved: tuple[str, ...]
    """Ends of the names of modules that were trained whole."""
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
                parameters=tuple(map(str, values.get("target_parameters") or ())),
                older=_numbers(values.get("peft_version") or "0") < _numbers(EXPERTS_SINCE),
                saved=tuple(map(str, values.get("modules_to_save") or ())),
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

    def expected(self, places: "Mapping[str, LoraLayer | Experts]") -> set[str]:
        """Return the places that the adapter must have factors at, where that can be told."""
        stacks = {name for name, layer in places.items() if isinstance(layer, Experts)}
        if self.partial or self.targets is None:
            return stacks
        return stacks | {
            name
            for name, layer in places.items()
            if isinstance(layer, LoraLayer)
            and (
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
            return ends(layer.module, selection)
        return self.matching(selection, layer.module)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the names of its base."""

    config: AdapterConfig
    factors: dict[str, Factors]
    """By the names of the weights on disk, with the scaling in `a`."""
    whole: dict[str, torch.Tensor]
    """φ of what was trained and saved whole beside the factors (PEFT's `modules_to_save`)."""


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Read an adapter that was trained on `base`."""
    config = AdapterConfig.read(folder)
    layers = LoraLayers(base)
    found, whole = _stored_parts(folder, base, config, layers.stored)
    chosen = [name for name in layers.experts if ends(name, config.parameters)]
    if strange := [p for p in config.parameters if not any(ends(name, (p,)) for name in chosen)]:
        raise VectorError(
            f"{folder} cannot be taken exactly: target_parameters names {listed(strange)}, and "
            f"{base.path} has no stack of experts of that name. Merge the adapter into its base "
            "and import the checkpoint."
        )
    stacks = {place: layers.experts[name] for name, place in layers.places(chosen).items()}
    if config.older:
        stacks = {place: replace(stack, inputs_first=True) for place, stack in stacks.items()}
    places: dict[str, LoraLayer | Experts] = {**layers.linear, **stacks}
    # Before they were fused in memory, each expert was a layer of the name that it has on disk.
    places |= {
        module: LoraLayer(module, name, tuple(base.tensors[name].spec.shape), False, False)
        for stack in layers.experts.values()
        for name in stack.weights
        if (module := name.removesuffix(".weight")) in found
    }
    _require_fit(folder, config, found, places)
    factors: dict[str, Factors] = {}
    for module, sides in sorted(found.items()):
        a, b = (read_tensor(sides[side]).float() for side in "AB")
        layer = places[module]
        if isinstance(layer, Experts):
            stack = layer.from_peft(a, b).scaled(config.scaling_of(layer.parameter))
            factors |= layer.apart(stack)
            continue
        part = Factors(b, a).scaled(config.scaling_of(module))
        factors[layer.weight] = part.transposed() if layer.transposed else part
    differences = {
        name: read_tensor(saved).float() - read_tensor(base.tensors[name]).float()
        for name, saved in whole.items()
    }
    return Adapter(config, factors, differences)


class Placed(NamedTuple):
    """Factors as an adapter holds them."""

    place: str
    """The module that they are saved beneath."""
    layer: LoraLayer | Experts
    a: torch.Tensor
    b: torch.Tensor


def place_factors(factors: FactorMap, layers: LoraLayers) -> tuple[int, list[Placed]]:
    """Return the rank of an adapter and what it holds; `layers` are those of the base.

    Zeros bring all modules to one rank: llama.cpp and others know no rank of a single module.
    """
    holders = layers.of_weights()
    turned: dict[str, Factors] = {}
    held: dict[str, LoraLayer | Experts] = {}
    for weight, part in factors.items():
        layer = held.setdefault(name := name_of(holders[weight]), holders[weight])
        if isinstance(layer, LoraLayer):
            turned[name] = part.transposed() if layer.transposed else part
        elif name not in turned:
            turned[name] = layer.together(factors)
    rank = max(part.rank for part in turned.values())
    places = layers.places([n for n, layer in held.items() if isinstance(layer, Experts)])
    found = []
    for name, layer in held.items():
        part = turned[name].padded(rank)
        a, b = (part.a, part.b) if isinstance(layer, LoraLayer) else layer.to_peft(part)
        found.append(Placed(places.get(name, name), layer, a, b))
    return rank, found


def adapter_tensors(placed: Iterable[Placed]) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's weight file."""
    tensors = {}
    for place, layer, a, b in placed:
        table = isinstance(layer, LoraLayer) and layer.embedding
        kind = "lora_embedding_{}" if table else "lora_{}.weight"
        for side, tensor in (("A", a), ("B", b)):
            tensors[f"{_PREFIX}{place}.{kind.format(side)}"] = tensor.contiguous()
    return tensors


def adapter_config(
    rank: int, placed: Sequence[Placed], layers: LoraLayers, *, base: str, revision: str | None
) -> bytes:
    """Return the adapter's configuration: alpha is the rank, so the scaling is 1."""
    linear = [each.layer for each in placed if isinstance(each.layer, LoraLayer)]
    stacks = [each.layer for each in placed if isinstance(each.layer, Experts)]
    config: dict[str, Any] = {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": any(layer.transposed and not layer.embedding for layer in linear),
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
        "target_modules": _targets({layer.module for layer in linear}, layers.modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    if stacks:
        config["target_parameters"] = [stack.parameter for stack in stacks]
        config["peft_version"] = EXPERTS_SINCE
    return (json.dumps(config, indent=2) + "\n").encode()


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


def _numbers(version: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in str(version).split(".")[:2])


def _pattern(values: Any, kind: Callable[[Any], Value]) -> "dict[regex.Pattern[str], Value]":
    # As PEFT reads them: each key is a regular expression for the end of a name.
    return {regex.compile(rf"(.*\.)?({key})"): kind(value) for key, value in (values or {}).items()}


def _selection(value: Any) -> "tuple[str, ...] | regex.Pattern[str] | None":
    if isinstance(value, str):
        return regex.compile(value)
    return None if value is None else tuple(map(str, value))


def _stored_parts(
    folder: Path, base: Checkpoint, config: AdapterConfig, stored: Mapping[str, str]
) -> tuple[dict[str, dict[str, StoredTensor]], dict[str, StoredTensor]]:
    """Return the stored factors by module and side, and weights that were trained whole.

    PEFT also saves the embeddings and the head that it put factors on: as they are in the base,
    they say nothing.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = " (an adapter_model.bin is no substitute)" * any(folder.glob("*.bin"))
        raise VectorError(f"{folder} has no {WEIGHTS_FILE}{pickled}. Save it as safetensors.")
    found: dict[str, dict[str, StoredTensor]] = {}
    whole: dict[str, StoredTensor] = {}
    unknown, unwanted, saved = [], [], set()
    uses = Counter(stored.values())
    for name, spec in read_header(path, VectorError).tensors.items():
        factor, other = _FACTOR.fullmatch(name), _WHOLE.fullmatch(name)
        tensor = StoredTensor(path, spec)
        if factor is not None and spec.dtype in TRAINABLE_DTYPES:
            side = factor["side"] or factor["table"]
            found.setdefault(factor["module"], {})[side] = tensor
            continue
        if other is None or (weight := f"{other['module']}.{other['name']}") not in stored:
            unknown.append(name)
            continue
        saved |= {each for each in config.saved if ends(other["module"], (each,))}
        on_disk = base.tensors[stored[weight]]
        if _equal(tensor, on_disk):
            continue
        floats = tensor.spec.dtype in TRAINABLE_DTYPES and not name.endswith(".base_layer.weight")
        if (
            floats
            and tensor.spec.shape == on_disk.spec.shape
            and uses[stored[weight]] == 1
            and ends(other["module"], config.saved)
        ):
            whole[stored[weight]] = tensor
        else:
            unwanted.append(name)
    if unknown:
        raise VectorError(
            f"{path} holds {listed(unknown)}, which are no float factors of linear layers, "
            "embeddings or experts. Train LoRA on these only."
        )
    if unwanted:
        raise VectorError(
            f"{path} holds {listed(unwanted)} whole, and other than in the base, where each is "
            "tied, of another shape, or not one of modules_to_save. Merge the adapter into its "
            "base and import the checkpoint."
        )
    if absent := set(config.saved) - saved:
        raise VectorError(
            f"{path} lacks {listed(absent)}, which modules_to_save of its configuration names. "
            "Save the adapter again."
        )
    if not found:
        raise VectorError(f"{path} holds no factors. Save the adapter again.")
    return found, whole


def _require_fit(
    folder: Path,
    config: AdapterConfig,
    found: Mapping[str, Mapping[str, StoredTensor]],
    places: Mapping[str, LoraLayer | Experts],
) -> None:
    halves = [module for module, sides in found.items() if len(sides) != 2]
    missing = (config.expected(places) - found.keys()) | set(halves)
    unexpected = found.keys() - places.keys()
    mismatched = [
        f"{module} ({shapes})"
        for module, sides in found.items()
        if module in places and module not in halves
        if (shapes := _mismatch(sides, places[module], config.rank_of(name_of(places[module]))))
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


def _mismatch(
    sides: Mapping[str, StoredTensor], layer: LoraLayer | Experts, rank: int
) -> str | None:
    if isinstance(layer, Experts):
        count, *shape = layer.shape
        outputs, inputs = shape[::-1] if layer.inputs_first else shape
        rank *= count
    else:
        outputs, inputs = layer.shape[::-1] if layer.transposed else layer.shape
    a, b = sides["A"].spec.shape, sides["B"].spec.shape
    if (a, b) == ((rank, inputs), (outputs, rank)):
        return None
    return f"B {list(b)}, A {list(a)} for {[outputs, rank]}, {[rank, inputs]}"


def _targets(modules: set[str], known: set[str]) -> list[str] | str:
    """Name the modules as people do, by their last part, where that selects the very same ones.

    Else by their full names; or by an expression, where one of those is the end of another.
    """
    short = {module.rpartition(".")[2] for module in modules}
    for names in (short, modules):
        if {module for module in known if ends(module, names)} == modules:
            return sorted(names)
    return "|".join(map(re.escape, sorted(modules)))
