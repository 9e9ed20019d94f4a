"""LoRA in place of whole weights: which layers, how they begin, and the factors they end as."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from prefreg.checkpoints.bases import BaseModel
from prefreg.errors import UsageError, listed
from prefreg.training.axis_request import LoraOptions
from prefreg.vectors.lora_layers import Experts, LoraLayer, LoraLayers, ends
from prefreg.vectors.lowrank import Factors

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True, slots=True)
class Lora:
    """LoRA on the layers of one base."""

    options: LoraOptions
    layers: tuple[LoraLayer, ...]
    experts: Mapping[str, Experts] = field(default_factory=dict)
    """Stacks of experts, by where PEFT keeps their factors."""
    notes: tuple[str, ...] = ()
    """What is left out, and why."""

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        stacks = (each.shape[0] * sum(each.shape[1:]) for each in self.experts.values())
        return self.options.rank * (sum(sum(layer.shape) for layer in self.layers) + sum(stacks))

    def config(self) -> "LoraConfig":
        """Return PEFT's configuration; the head stays as it is."""
        # peft takes a second to import, and most runs train whole weights.
        from peft import LoraConfig

        return LoraConfig(
            r=self.options.rank,
            lora_alpha=self.options.alpha,  # type: ignore[arg-type, unused-ignore]
            use_rslora=self.options.rslora,
            target_modules=[layer.module for layer in self.layers],
            target_parameters=[each.parameter for each in self.experts.values()] or None,
            fan_in_fan_out=any(layer.transposed and not layer.embedding for layer in self.layers),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )

    def factors(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Factors]:
        """Return what trained weights add to the base, by the base's names on disk."""
        found: dict[str, Factors] = {}
        for layer in self.layers:
            kind = "lora_embedding_{}.default" if layer.embedding else "lora_{}.default.weight"
            a, b = (weights[f"{layer.module}.{kind.format(side)}"] for side in "AB")
            part = Factors(b, a).scaled(self.options.scaling)
            found[layer.weight] = part.transposed() if layer.transposed else part
        for place, stack in self.experts.items():
            a, b = (weights[f"{place}.lora_{side}.default.weight"] for side in "AB")
            found |= stack.apart(stack.from_peft(a, b).scaled(self.options.scaling))
        return found

    def unmoved(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of an adapter that adds nothing: one factor as it began, at zero."""
        return {
            name: torch.zeros_like(weight)
            if ".lora_B." in name or ".lora_embedding_A." in name
            else weight
            for name, weight in weights.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded about it."""
        return {
            "rank": self.options.rank,
            "alpha": self.options.alpha,
            "rslora": self.options.rslora,
            "scaling": self.options.scaling,
            "parameters": self.parameters,
            "weights": [layer.weight for layer in self.layers],
            "experts": [each.parameter for each in self.experts.values()],
        }


def choose_layers(options: LoraOptions, base: BaseModel) -> Lora:
    """Find the layers that LoRA is put on."""
    found = LoraLayers(base.checkpoint)
    inner = {name: layer for name, layer in found.text.items() if not layer.output}
    if not options.targets:
        return Lora(options, tuple(inner.values()), notes=tuple(_left_out(found)))
    tables = {n: e for n, e in found.linear.items() if e.embedding and not e.frozen}
    stacks = {name: each for name, each in found.experts.items() if name not in found.refused}
    known = [*inner, *tables, *stacks]
    chosen = {target: {n for n in known if ends(n, (target,))} for target in options.targets}
    if unknown := [target for target, names in chosen.items() if not names]:
        raise UsageError(
            f"--lora-targets: {base.name} has no layer called {listed(unknown)} that takes "
            f"factors.{_why_not(unknown, found)} It has "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in known}))}."
        )
    names = set().union(*chosen.values())
    places = found.places(names & stacks.keys())
    return Lora(
        options,
        tuple(layer for name, layer in {**tables, **inner}.items() if name in names),
        {place: stacks[name] for name, place in places.items()},
    )


def _why_not(targets: Iterable[str], found: LoraLayers) -> str:
    """Say why targets that are there get no factors."""
    reasons = {reason for name, reason in found.refused.items() if ends(name, targets)}
    head, table = found.head, found.table
    if head and ends(head, targets):
        reasons.add("trl takes log-probabilities from the head's weight, past any adapter on it")
    if table and ends(table, targets):
        reasons.add("Embeddings that share the head's weight or scale what they look up take none")
    return "".join(f" {reason}." for reason in sorted(reasons))


def _left_out(found: LoraLayers) -> Iterator[str]:
    """Say which matrices of the text part get no factors unless told, and why."""
    stacks = [name for name in found.experts if name not in found.refused]
    ways = sorted({name.rpartition(".")[2] for name in stacks})
    groups = {f"stacks of experts (--lora-targets {','.join(ways)} chooses them)": stacks}
    for name, reason in found.refused.items():
        groups.setdefault(reason, []).append(name)
    groups["they are no linear layers"] = found.others
    for reason, names in groups.items():
        # One name for what each layer has.
        if kinds := sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names}):
            yield f"LoRA leaves out {listed(kinds)}: {reason}."
