"""Which layers of a vector do its work, and whether a subset does it for less KL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prefreg.evaluation.geometry.alignment import layer_of, layer_order
from prefreg.vectors.sources import TensorSource

Block = tuple[str, ...]
"""Layers that are looked at together, by the names that `layer_of` gives them."""


@dataclass(frozen=True, slots=True)
class Part:
    """What some layers of η·φ do by themselves."""

    layers: Block
    eta: float
    effect: float
    """Change of the held-out margin, in base standard deviations."""
    kl: float
    """Nats per answer."""

    @property
    def price(self) -> float:
        """KL per squared effect, which does not depend on η near the base; less is better."""
        return self.kl / self.effect**2 if self.effect else float("inf")


@dataclass(frozen=True, slots=True)
class Profile:
    """A vector by its layers."""

    whole: Part
    blocks: tuple[Part, ...]
    """Each block alone, in the order of the model."""
    growing: tuple[Part, ...]
    """The cheapest block, the two cheapest, and so on."""
    chosen: Part
    """The cheapest of these, turned up to the whole effect; the whole where none takes less KL."""


def make_blocks(names: Sequence[str], count: int) -> list[Block]:
    """Cut the layers of tensors into runs; what stands outside of them is a block a module."""
    layers = sorted({layer_of(name) for name in names}, key=layer_order)
    outside = [(layer,) for layer in layers if not layer_order(layer)[0]]
    inside = [layer for layer in layers if layer_order(layer)[0]]
    count = max(1, min(count, len(inside)))
    edges = [round(place * len(inside) / count) for place in range(count + 1)]
    runs = [tuple(inside[start:stop]) for start, stop in pairwise(edges)]
    return [*outside, *(run for run in runs if run)]


def profile_layers(
    measure: Callable[[Block, float], tuple[float, float]], blocks: Sequence[Block], eta: float
) -> Profile:
    """Measure each block alone and the cheapest together; `measure` returns effect and KL."""
    everything = tuple(layer for block in blocks for layer in block)

    def part(layers: Block, at: float) -> Part:
        return Part(layers, at, *measure(layers, at))

    whole = part(everything, eta)
    alone = tuple(part(block, eta) for block in blocks)
    # A block that moves the margin back is the last to be taken.
    ranked = sorted(alone, key=lambda each: each.price if each.effect * whole.effect > 0 else 1e300)
    growing = []
    for taken in range(1, len(ranked)):
        chosen = {layer for each in ranked[:taken] for layer in each.layers}
        growing.append(part(tuple(layer for layer in everything if layer in chosen), eta))
    growing.append(whole)
    best = min(growing, key=lambda each: each.price if each.effect * whole.effect > 0 else 1e300)
    if best is whole:
        return Profile(whole, alone, tuple(growing), whole)
    turned = part(best.layers, float(f"{eta * whole.effect / best.effect:.3g}"))
    return Profile(whole, alone, tuple(growing), turned if turned.kl < whole.kl else whole)


class Layers:
    """The tensors of a vector in some layers, as a vector of their own."""

    def __init__(self, vector: TensorSource, layers: Block) -> None:
        """Leave out what is in other layers."""
        self._vector = vector
        self.names = tuple(name for name in vector.names if layer_of(name) in layers)
        self.shape, self.tensor, self.block = vector.shape, vector.tensor, vector.block
