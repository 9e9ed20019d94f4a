"""Weights and the optimiser's state in files, a tensor at a time, of any number of processes.

What is in shards is gathered tensor by tensor, and read by rows: no process holds two models.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.optim import Optimizer
from transformers import PreTrainedModel

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor
from prefreg.checkpoints.safetensors_file import plan_file, read_header, write_at
from prefreg.errors import VectorError
from prefreg.files import replacing
from prefreg.models.conversion import Conversion
from prefreg.models.ranks import current, laid_out, own, own_rows, whole
from prefreg.vectors.tensors import (
    TORCH_DTYPES,
    CheckpointTensors,
    MemoryTensors,
    TensorSource,
    to_bytes,
)

STATE_FILE = "state.safetensors"
_WEIGHT, _MOMENT = "weight.", "moment."
_DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
Shape = tuple[str, str, tuple[int, ...]]
"""The name of a tensor, its dtype as safetensors calls it, and its shape."""


class StoredWeights(Mapping[str, torch.Tensor]):
    """Weights by their names on disk, each read in float32 when it is asked for."""

    def __init__(self, source: TensorSource) -> None:
        """Read from `source`."""
        self.source = source

    @classmethod
    def of_file(cls, path: Path) -> "StoredWeights":
        """Read from a safetensors file."""
        specs = read_header(path, VectorError).tensors
        held = {name: StoredTensor(path, spec) for name, spec in specs.items()}
        whole_file = Checkpoint(path, held, (), indexed=False, config={})
        return cls(CheckpointTensors(whole_file, {name: name for name in held}))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.source.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.names)

    def __len__(self) -> int:
        return len(self.source.names)


def as_source(weights: Mapping[str, torch.Tensor]) -> TensorSource:
    """Return weights as tensors that can be read a block at a time."""
    return weights.source if isinstance(weights, StoredWeights) else MemoryTensors(weights)


def trained(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """Return what is trained; unlike `state_dict`, tied parameters once and no buffers."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def write_trained(
    path: Path, model: PreTrainedModel, conversion: Conversion, base: Checkpoint
) -> StoredWeights:
    """Write what is trained in float32, by its names on disk; the first process writes."""
    held = trained(model)
    plain = [name for name in held if name in conversion.names]
    fusions = [each for each in conversion.fusions if any(name in held for name in each.weights)]
    stored = {conversion.names[name] for name in plain}.union(*(each.stored for each in fusions))

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for name in plain:
            yield conversion.names[name], whole(held[name])
        for fusion in fusions:
            yield from fusion.store({name: whole(held[name]) for name in fusion.weights}).items()

    shapes = [(name, "F32", base.tensors[name].spec.shape) for name in sorted(stored)]
    write_tensors(path, shapes, ((name, each.float()) for name, each in gathered()))
    return StoredWeights.of_file(path)


def write_tensors(
    path: Path, shapes: Iterable[Shape], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Write tensors in the order in which they come; the first process writes, all gather."""
    ranks = current()
    header, specs = plan_file(shapes, {})
    places = {spec.name: spec.offset for spec in specs}
    if not ranks.first:
        for _ in tensors:
            pass
    else:
        with replacing(path, durable=True) as partial, partial.open("xb") as stream:
            write_at(stream.fileno(), 0, header)
            for name, tensor in tensors:
                write_at(stream.fileno(), places[name], to_bytes(tensor))
    ranks.gather(None)  # until it is there, nobody reads it


def write_like(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as they are, gathered one by one."""
    shapes = [(name, _DTYPE_NAMES[each.dtype], tuple(each.shape)) for name, each in tensors.items()]
    write_tensors(path, shapes, ((name, whole(each.detach())) for name, each in tensors.items()))


def is_plain(optimizer: Optimizer) -> bool:
    """Whether all that an optimiser keeps are numbers and tensors of the weights' own shapes."""
    return all(
        isinstance(value, torch.Tensor) and value.shape in ((), parameter.shape)
        for parameter, state in optimizer.state.items()
        for value in state.values()
    )


def save_state(path: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Write the trained weights, and what the optimiser keeps of each."""
    tensors: dict[str, torch.Tensor] = {
        f"{_WEIGHT}{name}": each for name, each in trained(model).items()
    }
    for place, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_MOMENT}{place}.{key}"] = value
    write_like(path, tensors)


def load_weights(path: Path, model: PreTrainedModel) -> None:
    """Give a model the trained weights of a file."""
    held = trained(model)
    with safe_open(path, "pt") as stream, torch.no_grad():
        for name in sorted(held):
            own(held[name]).copy_(stream.get_slice(f"{_WEIGHT}{name}")[own_rows(held[name])])


def load_moments(path: Path, optimizer: Optimizer) -> None:
    """Give an optimiser what it kept, of the same weights in the same groups."""
    kept: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    parameters = _parameters(optimizer)
    with safe_open(path, "pt") as stream:
        for name in stream.keys():  # noqa: SIM118 - it is no mapping
            if name.startswith(_MOMENT):
                number, _, key = name.removeprefix(_MOMENT).partition(".")
                like = parameters[int(number)]
                if stream.get_slice(name).get_shape():
                    part = stream.get_slice(name)[own_rows(like)]
                    kept[int(number)][key] = laid_out(like, part)
                else:
                    kept[int(number)][key] = stream.get_tensor(name)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(kept), "param_groups": groups})


def read_parts(path: Path, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Read this process's part of each tensor of a file that is named as the model's weights."""
    held: dict[str, Any] = dict(model.named_parameters())
    with safe_open(path, "pt") as stream:
        return {name: stream.get_slice(name)[own_rows(held[name])] for name in stream.keys()}  # noqa: SIM118


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]
