"""Which layers of a vector do its work, and whether a subset does it for less KL."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.alignment import layer_of, layer_order
from prefreg.evaluation.board import Board, open_board
from prefreg.evaluation.candidates import opened_vectors
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.prompts import fingerprint_prompts
from prefreg.progress import Progress, steps_of
from prefreg.registry import VersionRecord
from prefreg.registry.access import Access
from prefreg.terms import Term
from prefreg.vectors.pole_tensors import TensorSource

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


BLOCKS = 8


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """The profile of a version at one coefficient."""

    record: VersionRecord
    profile: Profile
    pairs: int
    answers: int


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
    board = open_board(access, [term], request, progress)
    record, evaluator = board.terms[0].record, board.evaluator
    if record.axis not in evaluator.pairs:
        why = evaluator.missing.get(f"{record.axis}.margin", "it has no held-out pairs")
        raise DataError(f"The margin of {record.axis} cannot be measured: {why}.")
    held = evaluator.pairs[record.axis]
    protocol = {
        "pairs": held.fingerprint,
        "prompts": fingerprint_prompts(evaluator.asked),
        "blocks": blocks,
        **request.sampling(),
    }
    candidate = board.along(0, term.eta)
    kept = evaluator.part(candidate, "layers", protocol, lambda: _measure(access, board, blocks))
    return LayerProfile(record, _read(kept), len(held.pairs), len(evaluator.asked))


def _measure(access: Access, board: Board, blocks: int) -> dict[str, Any]:
    with access.reading() as store, opened_vectors(store, board.terms) as (vector,):
        cut = make_blocks(vector.names, blocks)
        total = 2 * len(cut) + 1
        done = 0
        tell = steps_of(board.evaluator.progress, "blocks of layers")
        scale = _Scale(board, vector)

        def measure(layers: Block, eta: float) -> tuple[float, float]:
            nonlocal done
            done += 1
            if tell is not None:
                tell(min(done, total), total)
            return scale.measure(layers, eta)

        try:
            found = profile_layers(measure, cut, board.etas[0])
        finally:
            board.evaluator.bench.dials.restore()
    return asdict(found)


class _Scale:
    """Weighs parts of a vector on the pristine base, which the caller gives its weights back."""

    def __init__(self, board: Board, vector: TensorSource) -> None:
        from prefreg.data.tokens import tokenize_pairs
        from prefreg.models.generation import sample
        from prefreg.models.loading import load_limits
        from prefreg.models.sampling import Sampling

        evaluator, request = board.evaluator, board.evaluator.request
        self._bench, self._vector = evaluator.bench, vector
        model = board.turn([0.0])
        self._answers = sample(
            model,
            self._bench.tokenizer,
            [each.prompt for each in evaluator.asked],
            Sampling(**request.sampling()),
        )
        context, vocabulary = load_limits(evaluator.base)
        held = evaluator.pairs[board.terms[0].record.axis]
        self._pairs: Sequence[Any] = tokenize_pairs(
            held.pairs,
            self._bench.tokenizer,
            max_length=context or 1 << 30,
            policy="drop",
            vocabulary=vocabulary,
        ).pairs
        self._base = self._margins()
        self._deviation = float(self._base.std(ddof=1)) if len(self._base) > 1 else 0.0
        if not self._deviation:
            raise DataError("The held-out margin does not vary on the base: give more pairs.")

    def measure(self, layers: Block, eta: float) -> tuple[float, float]:
        from prefreg.evaluation.divergence import divergences

        dials = self._bench.dials
        dials.apply([(eta, Layers(self._vector, layers))])
        effect = float((self._margins() - self._base).mean() / self._deviation)
        nats = divergences(dials.model, dials.pristine, self._answers)
        return effect, float(np.mean(nats))

    def _margins(self) -> Any:
        from prefreg.models.log_probs import answer_log_probs, margins

        return margins(answer_log_probs(self._bench.dials.model, self._pairs)).numpy()


def _read(kept: dict[str, Any]) -> Profile:
    def part(value: dict[str, Any]) -> Part:
        return Part(**{**value, "layers": tuple(value["layers"])})

    return Profile(
        whole=part(kept["whole"]),
        blocks=tuple(map(part, kept["blocks"])),
        growing=tuple(map(part, kept["growing"])),
        chosen=part(kept["chosen"]),
    )


def profile_view(found: LayerProfile) -> dict[str, Any]:
    """Return it in a form that JSON can hold."""
    profile = found.profile
    return {
        "axis": found.record.axis,
        "version": found.record.number,
        "pairs": found.pairs,
        "answers": found.answers,
        "whole": _view(profile.whole),
        "blocks": [_view(each) for each in profile.blocks],
        "growing": [_view(each) for each in profile.growing],
        "chosen": _view(profile.chosen),
    }


def _view(part: Part) -> dict[str, Any]:
    return {**asdict(part), "layers": list(part.layers)}
