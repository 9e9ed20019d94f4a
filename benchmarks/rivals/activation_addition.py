"""Contrastive activation addition: a mean difference of residual activations, added at a layer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

from prefreg.axes.axis import Message
from prefreg.data.tokens import TokenPair
from prefreg.models.generation import Answer, sample
from prefreg.models.padded import length, step_inputs
from prefreg.models.sampling import Sampling
from rivals.placing import figures, place
from rivals.policies import ModelPolicy, Setting
from rivals.workshop import AXES, Axis, Workshop

DEV_PROMPTS = 100
DEV_SCALES = (1.0, 2.0, 4.0)
DEV_KL = 2.0
"""The layer of an axis is that at which its own figure is largest, on the dev split, at no more
nats than this; one that says nothing at that price at any scale does not qualify."""


def activation_addition(workshop: Workshop, scales: Sequence[float]) -> Iterator[Setting]:
    """Add both axes' mean differences, each at the layer that served it best on the dev split."""
    plain = ModelPolicy(workshop.plain, workshop.tokenizer)
    directions = {axis: mean_differences(plain, workshop.pairs(axis)) for axis in AXES}
    layers = chosen_layers(workshop, directions)
    for etas in product(scales, repeat=2):
        if any(etas):
            added = [
                (layers[axis], eta * directions[axis][layers[axis]])
                for axis, eta in zip(AXES, etas, strict=True)
                if eta
            ]
            dials = dict(zip(AXES, etas, strict=True))
            yield Setting("activation addition", dials, partial(Added, plain, tuple(added)))


def chosen_layers(
    workshop: Workshop, directions: Mapping[Axis, Sequence[torch.Tensor]]
) -> dict[Axis, int]:
    """Choose the layer of each axis, or recall what an earlier run chose."""
    kept = workshop.folder / "layers.json"
    if not kept.exists():
        found = {axis: choose_layer(workshop, axis, directions[axis]) for axis in AXES}
        kept.write_text(json.dumps(found), "utf-8")
    layers: dict[Axis, int] = json.loads(kept.read_text("utf-8"))
    return layers


@torch.inference_mode()
def mean_differences(
    plain: ModelPolicy, pairs: Sequence[TokenPair], *, batch_size: int = 64
) -> list[torch.Tensor]:
    """Return, for the output of each layer, the mean over pairs of chosen minus rejected.

    An answer's activation is the mean over the tokens at which a direction is later added: that
    before the answer, and all of the answer but its last.
    """
    total: list[torch.Tensor] = []
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        sides = []
        for side in ("chosen_ids", "rejected_ids"):
            answers = [
                Answer("", list(pair.prompt_ids), list(getattr(pair, side)), True) for pair in part
            ]
            inputs, mask = _with_places(plain, answers)
            states = _layer_outputs(plain, inputs)
            weight = mask / mask.sum(1, keepdim=True)
            sides.append([(state * weight.unsqueeze(2)).sum(1) for state in states])
        sums = [(one - other).double().sum(0) for one, other in zip(*sides, strict=True)]
        total = [one + other for one, other in zip(total, sums, strict=True)] if total else sums
    return [(each / len(pairs)).float() for each in total]


def _layer_outputs(plain: ModelPolicy, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return what each layer writes; transformers' last hidden state has been normalised."""
    found: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _, __, output: found.append(output))
        for layer in _layers(plain)
    ]
    try:
        plain.model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def choose_layer(workshop: Workshop, axis: Axis, directions: Sequence[torch.Tensor]) -> int:
    """Choose the layer on the dev split by the rule of `DEV_KL`."""
    plain = ModelPolicy(workshop.plain, workshop.tokenizer)
    best: dict[int, float] = {}
    for layer, direction in enumerate(directions):
        for scale in DEV_SCALES:
            policy = Added(plain, ((layer, scale * direction),))
            found = figures(
                place(policy, plain, prompts=DEV_PROMPTS, seed=workshop.seed, split="dev")
            )
            print(f"dev {axis} layer {layer} ×{scale:g}: {found}", flush=True)
            if found["kl"] <= DEV_KL:
                best[layer] = max(best.get(layer, 0.0), found[axis])
    return max(best, key=best.__getitem__) if best else len(directions) - 1


@dataclass(frozen=True, slots=True)
class Added:
    """A model to whose residual stream vectors are added wherever an answer token is predicted."""

    plain: ModelPolicy
    added: tuple[tuple[int, torch.Tensor], ...]
    """Layer and vector."""

    def sample(self, prompts: Sequence[str], sampling: Sampling) -> list[Answer]:
        """Answer every prompt once."""
        turns = [(Message("user", prompt),) for prompt in prompts]
        with self._hooked(None):
            return sample(self.plain.model, self.plain.tokenizer, turns, sampling)

    def logits(self, answers: Sequence[Answer]) -> torch.Tensor:
        """Return the logits of every step of the answers, one answer after the other."""
        _, mask = _with_places(self.plain, answers)
        with self._hooked(mask):
            return self.plain.logits(answers)

    @contextmanager
    def _hooked(self, mask: torch.Tensor | None) -> Iterator[None]:
        """Add where `mask` is 1; without one, to the last place, which predicts the next token."""

        def add(vector: torch.Tensor, _: Any, __: Any, output: Any) -> torch.Tensor:
            where = torch.zeros(output.shape[:2]) if mask is None else mask
            if mask is None:
                where[:, -1] = 1
            turned: torch.Tensor = output + where.unsqueeze(2) * vector
            return turned

        layers = _layers(self.plain)
        handles = [
            layers[layer].register_forward_hook(partial(add, vector))
            for layer, vector in self.added
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _with_places(
    plain: ModelPolicy, answers: Sequence[Answer]
) -> tuple[Mapping[str, Any], torch.Tensor]:
    """Return the model's inputs, and 1 at each place of them that predicts an answer token."""
    inputs, steps = step_inputs(plain.model, answers)
    width = max(map(length, answers))
    mask = torch.zeros(len(answers), width)
    mask[:, width - steps.shape[1] :] = steps.float()
    return inputs, mask


def _layers(plain: ModelPolicy) -> Any:
    return plain.model.base_model.layers
