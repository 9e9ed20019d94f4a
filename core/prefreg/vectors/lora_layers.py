"""What LoRA changes in a base: linear layers, embeddings, and stacks of experts' matrices."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.errors import VectorError, one_line
from prefreg.vectors.lowrank import FactorMap, Factors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefreg.models.conversion import Conversion, Fusion, Matrix


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
    frozen: bool = False
    """Whether it belongs to a tower for images or sound, where no preference is trained."""


@dataclass(frozen=True, slots=True)
class Experts:
    """A parameter that holds a matrix for each expert, which PEFT calls a target parameter.

    LoRA changes each matrix by a product of its own: their factors are stacks, too.
    """

    parameter: str
    """Its name in memory, as in `model.layers.0.mlp.experts.down_proj`."""
    shape: tuple[int, ...]
    """(experts, rows, columns) in memory."""
    inputs_first: bool
    """Whether PEFT takes the rows of a matrix for its inputs."""
    weight: str | None
    """The name on disk, where it is stored as it is."""
    fusion: "Fusion | None" = None
    """What it is made of, where it is not."""

    @property
    def weights(self) -> tuple[str, ...]:
        """The names on disk of what it holds."""
        return (self.weight,) if self.weight else tuple(self.fusion.stored if self.fusion else ())

    def matrices(self) -> "Mapping[str, Matrix]":
        """Find the matrices on disk that it is made of; large, so they are not kept."""
        found = self.fusion.matrices(self.shape) if self.fusion else None
        if found is None:
            raise VectorError(
                f"{self.parameter} does not come apart by rows and columns on disk, so factors of "
                "it cannot be stored. Train whole weights, or other layers."
            )
        return found

    def from_peft(self, a: torch.Tensor, b: torch.Tensor) -> Factors:
        """Return the stack of factors that PEFT keeps as two matrices.

        `a` is (experts·rank, inputs), expert by expert; `b` is (outputs, rank·experts), the
        experts side by side for each rank.
        """
        count = self.shape[0]
        ranks = a.reshape(count, -1, a.shape[1])
        outputs = b.reshape(b.shape[0], -1, count).permute(2, 0, 1)
        stack = Factors(outputs.contiguous(), ranks.contiguous())
        return stack.transposed() if self.inputs_first else stack

    def to_peft(self, stack: Factors) -> tuple[torch.Tensor, torch.Tensor]:
        """Return PEFT's two matrices of a stack; see `from_peft`."""
        turned = stack.transposed() if self.inputs_first else stack
        b = turned.b.permute(1, 2, 0).flatten(1)
        return turned.a.flatten(0, 1).contiguous(), b.contiguous()

    def apart(self, stack: Factors) -> dict[str, Factors]:
        """Return the factors of what is stored, by names on disk."""
        if self.weight:
            return {self.weight: stack}
        b, a = stack.b.flatten(0, 1), stack.a.mT.flatten(0, 1)
        found = {}
        for name, matrix in self.matrices().items():
            part = Factors(b[matrix.rows], a[matrix.columns].T.contiguous())
            found[name] = part.transposed() if matrix.turned else part
        return found

    def together(self, factors: FactorMap) -> Factors:
        """Return the stack of those factors that are of its matrices, exactly.

        Matrices of one expert with the same inputs share a rank; others lie side by side.
        """
        if self.weight:
            return factors[self.weight]
        count, rows, columns = self.shape
        placed: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = defaultdict(list)
        parts = []
        for name, matrix in self.matrices().items():
            if name not in factors:
                continue
            part = factors[name].transposed() if matrix.turned else factors[name]
            known = placed[int(matrix.rows[0]) // rows]
            begin = sum(len(a) for _, a, _ in known)
            for start, a, places in known:
                if torch.equal(a, part.a) and torch.equal(places, matrix.columns):
                    begin = start
                    break
            else:
                known.append((begin, part.a, matrix.columns))
            parts.append((matrix, part, begin))
        rank = max(begin + part.rank for _, part, begin in parts)
        b, a = torch.zeros(count * rows, rank), torch.zeros(count * columns, rank)
        for matrix, part, begin in parts:
            b[matrix.rows, begin : begin + part.rank] = part.b
            a[matrix.columns, begin : begin + part.rank] = part.a.T
        return Factors(b.view(count, rows, rank), a.view(count, columns, rank).mT.contiguous())


def name_of(layer: LoraLayer | Experts) -> str:
    """Return what PEFT calls it: a module, or a parameter."""
    return layer.module if isinstance(layer, LoraLayer) else layer.parameter


def ends(name: str, endings: Iterable[str]) -> bool:
    """Whether a name ends with one of some, by whole parts."""
    return any(f".{name}".endswith(f".{ending}") for ending in endings)


class LoraLayers:
    """All that LoRA may change in a base, by names in memory and in its order."""

    def __init__(self, base: Checkpoint) -> None:
        """Build the model without its weights, from its configuration alone.

        A head and embeddings that share one weight are left out: it is not their own.
        """
        # Slow to import, and only adapters need it.
        from prefreg.models.conversion import find_conversion
        from prefreg.models.loading import empty_model

        self._model: Any = empty_model(base)  # some of it carries no types
        conversion = find_conversion(self._model, base, whole=False)
        self.stored = _stored_names(self._model, conversion)
        """Where each parameter is stored, tied ones by each of their names."""
        self.linear = _linear(self._model, self.stored)
        """Linear layers and embeddings that have a weight of their own."""
        self.experts = _experts(self._model, conversion)

    @cached_property
    def refused(self) -> dict[str, str]:
        """Why PEFT, as it is tried, puts no factors on some: it could load no adapter of them."""
        return _refused_by_peft(self._model, self.linear.values(), self.experts)

    @property
    def text(self) -> dict[str, LoraLayer]:
        """The linear layers that the base writes text with, its head among them."""
        return {
            name: each
            for name, each in self.linear.items()
            if not (each.embedding or each.frozen or name in self.refused)
        }

    @property
    def modules(self) -> set[str]:
        """The names of all modules, whatever they are."""
        return {name for name, _ in self._model.named_modules()}

    @property
    def head(self) -> str | None:
        """The name of the head, which may share its weight with the embeddings."""
        return self._name_of(self._model.get_output_embeddings())

    @property
    def table(self) -> str | None:
        """The name of the embeddings."""
        return self._name_of(self._model.get_input_embeddings())

    @property
    def others(self) -> list[str]:
        """Matrices of the text part that are no linear layers, such as those of routers."""
        known = {*self.linear, self.head, self.table}
        return [
            name
            for name, each in self._model.named_parameters()
            if each.requires_grad and each.ndim == 2 and name not in self.experts
            if name.removesuffix(".weight") not in known
        ]

    def _name_of(self, module: torch.nn.Module | None) -> str | None:
        return next((n for n, each in self._model.named_modules() if each is module), None)

    def places(self, chosen: Collection[str]) -> dict[str, str]:
        """Return where the factors of experts lie in a model that PEFT has put them on."""
        return _places(chosen, self.experts)

    def of_weights(self) -> dict[str, LoraLayer | Experts]:
        """Return what holds a weight, by its name on disk."""
        found: dict[str, LoraLayer | Experts] = {e.weight: e for e in self.linear.values()}
        return found | {name: each for each in self.experts.values() for name in each.weights}


def _stored_names(model: "PreTrainedModel", conversion: "Conversion") -> dict[str, str]:
    names = conversion.names
    known = {id(parameter): names.get(name) for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: stored for name, each in every if (stored := known[id(each)])}


def _linear(model: "PreTrainedModel", stored: Mapping[str, str]) -> dict[str, LoraLayer]:
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
            frozen=not module.weight.requires_grad,
        )
        for name, module in model.named_modules()
        # A kind that computes more, such as a router, is no product that LoRA's could be added to.
        if (
            type(module).forward in (torch.nn.Linear.forward, Conv1D.forward)
            and f"{name}.weight" in own
        )
        # Embeddings of other kinds scale what they look up, which PEFT did not always heed.
        or (type(module) is torch.nn.Embedding and uses[stored.get(f"{name}.weight", "")] == 1)
    }


def _experts(model: "PreTrainedModel", conversion: "Conversion") -> dict[str, Experts]:
    """Find the stacks of matrices that are trained; convolutions are none."""
    fusions = {name: each for each in conversion.fusions for name in each.weights}
    found = {}
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d):
            continue
        for last, weight in module.named_parameters(recurse=False):
            name = f"{module_name}.{last}"
            if weight.ndim != 3 or min(weight.shape) < 2 or not weight.requires_grad:
                continue
            shape = tuple(weight.shape)
            # As PEFT asks, too.
            turned = bool(getattr(module, "is_transposed", False))
            if name in conversion.names:
                found[name] = Experts(name, shape, turned, conversion.names[name])
            elif name in fusions:
                found[name] = Experts(name, shape, turned, None, fusions[name])
    return found


def _refused_by_peft(
    model: "PreTrainedModel", layers: Iterable[LoraLayer], experts: Mapping[str, Experts]
) -> dict[str, str]:
    """Return the names that PEFT does not put factors on when it is tried, and why.

    It refuses some, and takes others for the fused experts that once had such names.
    """
    # It takes a second to import, and most commands need no adapter.
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    linear = [layer for layer in layers if not layer.embedding and not layer.output]

    def problem(kinds: Collection[str]) -> str | None:
        modules = {layer.module for layer in linear if _kind(layer.module) in kinds}
        stacks = {name for name in experts if _kind(name, 2) in kinds}
        config = LoraConfig(
            r=1,
            target_modules=sorted(modules),
            target_parameters=sorted(stacks) or None,
            fan_in_fan_out=any(layer.transposed for layer in linear) and not stacks,
            init_lora_weights=False,
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of settings that it adds to this itself
                made = get_peft_model(deepcopy(model), config)
                saved = {
                    name.replace(".default.", "."): each
                    for name, each in made.named_parameters()
                    if ".lora_" in name
                }
                loaded = set_peft_model_state_dict(made, saved)
        except Exception as error:  # whatever it raises in an unknown architecture
            return f"PEFT refuses it ({one_line(str(error)):.120})"
        if loaded.unexpected_keys or any(".lora_" in name for name in loaded.missing_keys):
            return "PEFT loses it when it loads an adapter"
        found = {
            (name, getattr(each, "parameter_name", ""))
            for name, each in made.get_base_model().named_modules()
            if isinstance(each, BaseTunerLayer)
        }
        wanted = {(name, "") for name in modules}
        wanted |= {(place, _kind(name)) for name, place in _places(stacks, experts).items()}
        return None if found == wanted else "PEFT takes its name for that of fused experts"

    kinds = {layer.module: _kind(layer.module) for layer in linear}
    kinds |= {name: _kind(name, 2) for name in experts}
    if problem(set(kinds.values())) is None:
        return {}
    reasons = {kind: reason for kind in {*kinds.values()} if (reason := problem({kind}))}
    return {name: reasons[kind] for name, kind in kinds.items() if kind in reasons}


def _places(chosen: Collection[str], ordered: Iterable[str]) -> dict[str, str]:
    """Return where PEFT keeps the factors of parameters, which come in the order of the model.

    It wraps a module once for each of them: the last lies outside, what came before beneath it.
    """
    found: dict[str, str] = {}
    for name in ordered:
        if name in chosen:
            module = name.rpartition(".")[0]
            for earlier in found:
                if earlier.rpartition(".")[0] == module:
                    found[earlier] += ".base_layer"
            found[name] = module
    return found


def _kind(name: str, parts: int = 1) -> str:
    """Return the end of a name: one part for a module, two for a parameter."""
    return ".".join(name.split(".")[-parts:])
