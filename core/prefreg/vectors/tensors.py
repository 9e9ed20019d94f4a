"""Between torch tensors and the bytes of safetensors files."""

import math

import numpy
import torch

from prefreg.checkpoints.checkpoint import StoredTensor
from prefreg.checkpoints.safetensors_file import TensorSpec, read_into
from prefreg.errors import BaseModelError
from prefreg.vectors.dense import unreadable

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
