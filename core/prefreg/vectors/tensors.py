"""Tensors in torch: between them and the bytes of safetensors files, and where they come from."""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy
import torch

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor
from prefreg.checkpoints.safetensors_file import TensorSpec, read_into
from prefreg.checkpoints.tensor_names import is_weight, match_pole, weight_shapes
from prefreg.errors import BaseModelError, VectorError, listed, unreadable

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The safetensors dtypes that torch can hold."""


class TensorSource(Protocol):
    """Named tensors that can be read in float32, whole or a block at a time."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor in float32."""

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a tensor in float32."""


class CheckpointTensors:
    """The weights of a checkpoint, under names of one's own where they are given."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str] | None = None) -> None:
        """Take every weight once, or those that `names` maps to their stored names."""
        stored = names or {name: name for name in weight_shapes(checkpoint)}
        unusable = [
            name
            for name in stored.values()
            if name not in checkpoint.tensors or not is_weight(checkpoint.tensors[name])
        ]
        if unusable:
            raise BaseModelError(
                f"{checkpoint.path} holds no float weights for {listed(unusable)}. "
                "Use an unquantised checkpoint of the same model."
            )
        self._tensors = {name: checkpoint.tensors[stored[name]] for name in sorted(stored)}

    @classmethod
    def of_pole(cls, pole: Checkpoint, base: Checkpoint) -> "CheckpointTensors":
        """Take the weights of a model trained from `base`, under the names of the base."""
        return cls(pole, match_pole(pole, base))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._tensors[name].spec.shape

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor in float32."""
        spec = self._tensors[name].spec
        return self.block(name, 0, spec.elements).reshape(spec.shape)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a tensor in float32."""
        return read_block(self._tensors[name], start, stop).to(torch.float32)


class MemoryTensors:
    """Tensors that are in memory, such as the weights of a model that has just been trained."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refer to the tensors, without a copy."""
        other = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
        if other:
            raise VectorError(f"{listed(other)} are not float tensors, so they have no direction.")
        self._tensors = {name: tensors[name].detach() for name in sorted(tensors)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor in float32."""
        return self._tensors[name].to("cpu", torch.float32)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a tensor in float32."""
        return self._tensors[name].reshape(-1)[start:stop].to("cpu", torch.float32)


def require_same_names(first: TensorSource, second: TensorSource, *, what: tuple[str, str]) -> None:
    """Check that two sources have the same names and shapes; `what` says what they are."""
    extra = set(second.names) - set(first.names)
    _raise_if(
        [
            *_absent(set(first.names) - set(second.names), what[1]),
            *_absent(extra, what[0]),
            *_reshaped(first, second),
        ],
        what,
    )


def require_shapes_of(part: TensorSource, whole: TensorSource, *, what: tuple[str, str]) -> None:
    """Check that `whole` has every name of `part`, in the same shape."""
    missing = set(part.names) - set(whole.names)
    _raise_if([*_absent(missing, what[1]), *_reshaped(part, whole)], what)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor is free of NaN and infinity."""
    if not tensor.numel():
        return True
    # NaN passes through both extremes, and finding them is twenty times faster than isfinite.
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def count_nonzero(tensor: torch.Tensor) -> int:
    """Count the elements that are not zero; faster than torch where they are mixed."""
    return int(numpy.count_nonzero(tensor.numpy() != 0))


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, without a copy."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def require_storable(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a part of a vector that is to be stored, unless it holds NaN or infinity."""
    if not is_finite(tensor):
        raise VectorError(f"{name!r} of the vector holds NaN or infinity.")
    return tensor


def read_elements(
    file: int, spec: TensorSpec, start: int, stop: int, room: torch.Tensor | None = None
) -> torch.Tensor:
    """Read the flat elements `start:stop` of a tensor from an open file, in its own dtype.

    `room`, if given, is a tensor of that size and dtype that they are read into.
    """
    dtype = TORCH_DTYPES[spec.dtype]
    flat = torch.empty(stop - start, dtype=dtype) if room is None else room
    read_into(file, spec.offset + start * dtype.itemsize, to_bytes(flat))
    return flat


def read_tensor(stored: StoredTensor) -> torch.Tensor:
    """Read a tensor of a checkpoint, in its own dtype and shape."""
    spec = stored.spec
    return read_block(stored, 0, spec.elements).reshape(spec.shape)


def read_block(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    """Read the flat elements `start:stop` of a checkpoint's tensor, in its own dtype."""
    require_readable(stored)
    try:
        with stored.file.open("rb") as stream:
            return read_elements(stream.fileno(), stored.spec, start, stop)
    except (OSError, EOFError) as error:
        raise unreadable(stored.file, error, BaseModelError) from error


def require_readable(stored: StoredTensor) -> None:
    """Check that torch knows the dtype of a stored tensor."""
    if stored.spec.dtype not in TORCH_DTYPES:
        raise BaseModelError(
            f"{stored.spec.name!r} in {stored.file} is stored as {stored.spec.dtype}, "
            "which cannot be read here. Use an unquantised checkpoint."
        )


def _raise_if(problems: list[str], what: tuple[str, str]) -> None:
    if problems:
        raise VectorError(
            f"{what[0][0].upper()}{what[0][1:]} and {what[1]} do not match: {'; '.join(problems)}."
        )


def _absent(names: set[str], where: str) -> list[str]:
    return [f"{where} lacks {listed(names)}"] if names else []


def _reshaped(first: TensorSource, second: TensorSource) -> list[str]:
    other = [
        f"{name} {list(first.shape(name))} against {list(second.shape(name))}"
        for name in sorted(set(first.names) & set(second.names))
        if first.shape(name) != second.shape(name)
    ]
    return [f"of different shapes: {listed(other)}"] if other else []
