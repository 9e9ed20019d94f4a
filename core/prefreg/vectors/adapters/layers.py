"""The linear layers of a base: what an adapter calls them, and what the checkpoint does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.names import on_disk_names
from prefreg.errors import BaseModelError


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer that LoRA can be put on."""

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


def linear_layers(base: Checkpoint) -> dict[str, LinearLayer]:
    """Return the linear layers of a base by their names in memory, in the model's order.

    Heads that are tied to the embeddings are left out: their weight is not their own. The model
    is built without its weights, from its configuration alone.

    Raises:
        BaseModelError: The configuration names no causal language model that is known here.
    """
    # Slow to import, and only adapters need it.
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    # Its annotations leave `from_config` out.
    factory: Any = AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model = factory.from_config(config, trust_remote_code=False)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise BaseModelError(
            f"The layers of {base.path} cannot be told from its configuration: {reason:.300}"
        ) from error
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    stored = on_disk_names(shapes, model.base_model_prefix, base)
    head = model.get_output_embeddings()
    return {
        name: LinearLayer(
            module=name,
            weight=stored[f"{name}.weight"],
            shape=shapes[f"{name}.weight"],
            transposed=isinstance(module, Conv1D),
            output=module is head,
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and f"{name}.weight" in stored
    }


def by_weight(layers: Mapping[str, LinearLayer]) -> dict[str, LinearLayer]:
    """Return layers by the names of their weights on disk."""
    return {layer.weight: layer for layer in layers.values()}
