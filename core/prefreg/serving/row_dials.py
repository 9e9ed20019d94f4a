"""Low-rank vectors in a batch whose rows have different settings, without touching the weights.

A linear layer of weight W gives y = W·x + Σ ηᵢ·bᵢ·(aᵢ·x), where the ηᵢ are those of the row, or of
the token, that x belongs to. A hook adds the sum: one thin product with the a of all vectors at
once, one with all b.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefreg.models.conversion import Conversion
from prefreg.vectors import Vector
from prefreg.vectors.lowrank import Factors, LowRankVector


class FactorSource(Protocol):
    """What has factors of weights, by their stored names."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the weights."""

    def factors(self, name: str) -> Factors:
        """Return those of a weight."""


class Carried(NamedTuple):
    """A low-rank vector that acts on one row."""

    key: str
    """By which equal vectors are known."""
    vector: FactorSource
    eta: float
    since: int | None = None
    """As in `Term`."""


class RowDials:
    """The hooks of one model; they stand only where vectors in use have factors."""

    def __init__(self, model: PreTrainedModel, conversion: Conversion) -> None:
        """Find the linear layers whose products are wholly theirs."""
        self._model = model
        self._layers = _linear_layers(model, conversion)
        self._stack: Stack | None = None
        self._handles: list[Any] = []
        self._scales: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def layers(self) -> "Mapping[str, LinearLayer]":
        """The layers that hooks can stand on, by the stored names of their weights."""
        return self._layers

    def limit(self, names: Collection[str]) -> None:
        """Stand on no other layers than these."""
        self._layers = {name: each for name, each in self._layers.items() if name in names}

    def carries(self, vector: Vector) -> TypeGuard[LowRankVector]:
        """Whether a vector changes nothing but layers that hooks can stand on."""
        return isinstance(vector, LowRankVector) and all(
            name in self._layers for name in vector.names
        )

    def stack(self, vectors: Mapping[str, FactorSource]) -> "Stack":
        """Lay the factors of vectors side by side, for each layer."""
        names = {key: {*vector.names} for key, vector in vectors.items()}
        layers = []
        for name in sorted(set().union(*names.values())):
            layer = self._layers[name]
            parts = [
                (place, vector.factors(name))
                for place, (key, vector) in enumerate(vectors.items())
                if name in names[key]
            ]
            weight = layer.module.weight
            turned = layer.inputs_first
            down = torch.cat([f.b if turned else f.a.mT for _, f in parts], 1).to(weight)
            up = torch.cat([f.a if turned else f.b.mT for _, f in parts]).to(weight)
            owners = tuple(place for place, f in parts for _ in range(f.rank))
            layers.append(StackLayer(layer.module, down.contiguous(), up.contiguous(), owners))
        return Stack(tuple(vectors), tuple(layers))

    def use(self, stack: "Stack | None") -> None:
        """Let a stack's vectors act, and no others."""
        if stack is self._stack:
            return
        for handle in self._handles:
            handle.remove()
        self._stack = stack
        self._handles = [
            layer.module.register_forward_hook(self._hook(layer))
            for layer in (stack.layers if stack else ())
        ]

    def set(self, etas: torch.Tensor) -> None:
        """Set the η of the next pass: (tokens, vectors of the stack), or one row for all tokens."""
        owners = {layer.owners for layer in self._stack.layers} if self._stack else ()
        etas = etas.to(self._model.device, self._model.dtype)
        self._scales = {each: etas[:, list(each)] for each in owners}

    def _hook(self, layer: "StackLayer") -> Any:
        scales = self._scales_of
        down, up, owners = layer.down, layer.up, layer.owners

        def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            thin = inputs[0].flatten(0, -2) @ down
            # A head may be given the last tokens alone.
            thin *= scales(owners)[-len(thin) :]
            output.flatten(0, -2).addmm_(thin, up)

        return add

    def _scales_of(self, owners: tuple[int, ...]) -> torch.Tensor:
        return self._scales[owners]


@dataclass(frozen=True, slots=True, eq=False)
class StackLayer:
    """The factors that act on a linear layer."""

    module: Any
    down: torch.Tensor
    """All a, turned, side by side: (inputs, sum of ranks); so laid, the product is fastest."""
    up: torch.Tensor
    """All b, turned, below each other: (sum of ranks, outputs)."""
    owners: tuple[int, ...]
    """Of each rank, the place of its vector in the stack."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The factors of several vectors, layer by layer."""

    vectors: tuple[str, ...]
    """Fingerprints, in the order of the η."""
    layers: tuple[StackLayer, ...]


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer of a model that multiplies what it is given with its weight."""

    name: str
    """In memory."""
    module: Any
    inputs_first: bool
    """Whether the weight is (inputs, outputs), as in GPT-2, and not the other way round."""


def _linear_layers(model: PreTrainedModel, conversion: Conversion) -> dict[str, LinearLayer]:
    """Return each linear layer by the stored name of its weight.

    A weight that two layers share is left out, as what only one of them adds would be lacking.
    """
    every = model.named_parameters(remove_duplicate=False)
    uses = Counter(id(parameter) for _, parameter in every)
    kinds = {torch.nn.Linear.forward: False, Conv1D.forward: True}
    found = {}
    for name, module in model.named_modules():
        turned = kinds.get(type(module).forward)
        stored = conversion.names.get(f"{name}.weight")
        weight: Any = getattr(module, "weight", None)
        if turned is not None and stored is not None and uses[id(weight)] == 1:
            found[stored] = LinearLayer(name, module, turned)
    return found
