"""Which layers of a vector do its work, and whether a subset does it for less KL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.candidates import opened_vectors
from prefreg.evaluation.divergence import divergences
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.figures import Column, deviation_of
from prefreg.evaluation.prompts import fingerprint_prompts
from prefreg.evaluation.weight_geometry import layer_of, layer_order
from prefreg.json_values import JsonFields
from prefreg.models.log_probs import margins
from prefreg.progress import Progress, steps_of
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term
from prefreg.vectors.tensors import TensorSource

Block = tuple[str, ...]
"""Layers that are looked at together, by the names that `layer_of` gives them."""


@dataclass(frozen=True, slots=True)
class LayerEffect(JsonFields):
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
class Profile(JsonFields):
    """A vector by its layers."""

    whole: LayerEffect
    blocks: tuple[LayerEffect, ...]
    """Each block alone, in the order of the model."""
    growing: tuple[LayerEffect, ...]
    """The cheapest block, the two cheapest, and so on."""
    chosen: LayerEffect
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

    def part(layers: Block, at: float) -> LayerEffect:
        return LayerEffect(layers, at, *measure(layers, at))

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


class LayerSubset:
    """The tensors of a vector in some layers, as a vector of their own."""

    def __init__(self, vector: TensorSource, layers: Block) -> None:
        """Leave out what is in other layers."""
        self._vector = vector
        self.names = tuple(name for name in vector.names if layer_of(name) in layers)
        self.shape, self.tensor, self.block = vector.shape, vector.tensor, vector.block


BLOCKS = 8


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """The profile of a version at one coefficient."""

    record: VersionRecord
    profile: Profile
    pairs: int
    answers: int

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "axis": self.record.axis,
            "version": self.record.number,
            "pairs": self.pairs,
            "answers": self.answers,
            **self.profile.to_json(),
        }


def profile_dial(
    access: Access,
    term: Term,
    request: EvaluationRequest,
    *,
    blocks: int = BLOCKS,
    progress: Progress | None = None,
) -> LayerProfile:
    """Measure a vector by blocks of layers: the held-out margin, and KL on the base's answers."""
    if blocks < 1:
        raise UsageError(f"A profile has at least one block, got {blocks}.")
    evaluator = open_dials(access, [term], request, progress)
    record = evaluator.terms[0].record
    try:
        held = evaluator.require_pairs(record.axis)
    except DataError as error:
        raise DataError(f"The margin of {record.axis} cannot be measured: {error}.") from error
    protocol = {
        "pairs": held.fingerprint,
        "prompts": fingerprint_prompts(evaluator.asked),
        "blocks": blocks,
        **request.sampling(),
    }
    candidate = evaluator.along(0, term.eta)
    kept = evaluator.part(candidate, "layers", protocol, lambda: _measure(evaluator, blocks))
    return LayerProfile(record, _read(kept), len(held.pairs), len(evaluator.asked))


def _measure(evaluator: Evaluator, blocks: int) -> dict[str, Any]:
    """Compose parts of the vector on the pristine base, one after the other."""
    (term,) = evaluator.terms
    with evaluator.access.reading() as store:
        source = store.vector_source(term.record)
    with opened_vectors([(term.record, source)]) as (vector,):
        cut = make_blocks(vector.names, blocks)
        answers = evaluator.sample(evaluator.plain)
        base = _margins(evaluator, evaluator.model(evaluator.plain))
        deviation = deviation_of(base)
        if not deviation:
            raise DataError("The held-out margin does not vary on the base: give more pairs.")
        tell = steps_of(evaluator.progress, "blocks of layers")
        total, done = 2 * len(cut) + 1, count(1)

        def measure(layers: Block, eta: float) -> tuple[float, float]:
            if tell is not None:
                tell(min(next(done), total), total)
            model = evaluator.turn([(eta, LayerSubset(vector, layers))])
            effect = float((_margins(evaluator, model) - base).mean() / deviation)
            nats = divergences(model, evaluator.dials.pristine, answers)
            return effect, float(np.mean(nats))

        return profile_layers(measure, cut, term.eta).to_json()


def _margins(evaluator: Evaluator, model: PreTrainedModel) -> Column:
    axis = evaluator.terms[0].record.axis
    found: Column = margins(evaluator.log_probs(axis, model)).numpy()
    return found


def _read(kept: dict[str, Any]) -> Profile:
    def part(value: dict[str, Any]) -> LayerEffect:
        return LayerEffect(**{**value, "layers": tuple(value["layers"])})

    return Profile(
        whole=part(kept["whole"]),
        blocks=tuple(map(part, kept["blocks"])),
        growing=tuple(map(part, kept["growing"])),
        chosen=part(kept["chosen"]),
    )
