"""LoRA in place of whole weights: which layers, how they begin, and the factors they end as."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prefreg.checkpoints.bases import BaseModel
from prefreg.errors import UsageError, listed
from prefreg.training.axis_request import LoraOptions
from prefreg.vectors.lowrank import Factors
from prefreg.vectors.peft_adapters import LoraLayer, linear_layers

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True, slots=True)
class Lora:
    """LoRA on the layers of one base."""

    options: LoraOptions
    layers: tuple[LoraLayer, ...]

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(self.options.rank * sum(layer.shape) for layer in self.layers)

    def config(self) -> "LoraConfig":
        """Return PEFT's configuration; the head and the embeddings stay as they are."""
        # peft takes a second to import, and most runs train whole weights.
        from peft import LoraConfig

        return LoraConfig(
            r=self.options.rank,
            lora_alpha=self.options.alpha,  # type: ignore[arg-type, unused-ignore]
            use_rslora=self.options.rslora,
            target_modules=[layer.module for layer in self.layers],
            fan_in_fan_out=any(layer.transposed for layer in self.layers),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )

    def factors(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Factors]:
        """Return what trained weights add to the base, by the base's names on disk."""
        found = {}
        for layer in self.layers:
            a, b = (weights[f"{layer.module}.lora_{side}.default.weight"] for side in "AB")
            part = Factors(b, a).scaled(self.options.scaling)
            found[layer.weight] = part.transposed() if layer.transposed else part
        return found

    def unmoved(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of an adapter that adds nothing: B as it began, at zero."""
        return {
            name: torch.zeros_like(weight) if ".lora_B." in name else weight
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
        }


def choose_layers(options: LoraOptions, base: BaseModel) -> Lora:
    """Find the layers that LoRA is put on."""
    layers = tuple(linear_layers(base.checkpoint).values())
    inner = tuple(layer for layer in layers if not layer.output)
    if not options.targets:
        return Lora(options, inner)
    chosen = [
        [layer for layer in inner if f".{layer.module}".endswith(f".{target}")]
        for target in options.targets
    ]
    unknown = [target for target, found in zip(options.targets, chosen, strict=True) if not found]
    if unknown:
        known = sorted({layer.module.rpartition(".")[2] for layer in inner})
        raise UsageError(
            f"--lora-targets: {base.name} has no linear layer called {listed(unknown)}, the head "
            f"left out. It has {', '.join(known)}."
        )
    return Lora(options, tuple(layer for layer in inner if any(layer in found for found in chosen)))
