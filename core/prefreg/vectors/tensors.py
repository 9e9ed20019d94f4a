"""Between torch tensors and the bytes of safetensors files."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch

from prefreg.checkpoints.checkpoint import StoredTensor
from prefreg.checkpoints.safetensors_file import TensorSpec
from prefreg.checkpoints.safetensors_io import read_into
from prefreg.errors import BaseModelError, PrefregError, UsageError, VectorError

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

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The dtypes a model can be written in, with the names that transformers uses."""

BLOCK_ELEMENTS = 1 << 18
"""How many numbers are worked on at once: few enough for little memory, enough for speed."""


def parse_dtype(text: str) -> str:
    """Return the safetensors spelling of `float32`, `bf16`, `F16` and the like.

    Raises:
        UsageError: It is not a dtype that a model can be written in.
    """
    spellings = {"fp32": "F32", "f32": "F32", "fp16": "F16", "f16": "F16", "bf16": "BF16"}
    spellings |= {name: dtype for dtype, name in DTYPE_NAMES.items()}
    dtype = spellings.get(text.lower())
    if dtype is None:
        raise UsageError(f"{text!r} is no dtype. Use {', '.join(DTYPE_NAMES.values())}.")
    return dtype


def parse_device(text: str) -> torch.device:
    """Return the device of `cpu`, `cuda` or `cuda:1`.

    Raises:
        UsageError: There is no such device here.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"{text!r} is no device. Use cpu, cuda or cuda:1.") from None
    count = torch.cuda.device_count()
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
        return device
    raise UsageError(f"There is no device {text!r} here; {count} GPUs are. Use cpu.")


def blocks(elements: int, size: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Cut a flat tensor into (start, stop) pieces."""
    for start in range(0, elements, size):
        yield start, min(start + size, elements)


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

    Raises:
        EOFError: The file has become shorter than its header said.
        OSError: The file cannot be read.
    """
    dtype = TORCH_DTYPES[spec.dtype]
    flat = torch.empty(stop - start, dtype=dtype) if room is None else room
    read_into(file, spec.offset + start * dtype.itemsize, to_bytes(flat))
    return flat


def read_tensor(stored: StoredTensor) -> torch.Tensor:
    """Read a tensor of a checkpoint, in its own dtype and shape.

    Raises:
        BaseModelError: The file cannot be read, or torch has no such dtype.
    """
    spec = stored.spec
    return read_block(stored, 0, spec.elements).reshape(spec.shape)


def read_block(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    """Read the flat elements `start:stop` of a checkpoint's tensor, in its own dtype.

    Raises:
        BaseModelError: The file cannot be read, or torch has no such dtype.
    """
    require_readable(stored)
    try:
        with stored.file.open("rb") as stream:
            return read_elements(stream.fileno(), stored.spec, start, stop)
    except (OSError, EOFError) as error:
        raise unreadable(stored.file, error, BaseModelError) from error


def require_readable(stored: StoredTensor) -> None:
    """Check that torch knows the dtype of a stored tensor.

    Raises:
        BaseModelError: It does not.
    """
    if stored.spec.dtype not in TORCH_DTYPES:
        raise BaseModelError(
            f"{stored.spec.name!r} in {stored.file} is stored as {stored.spec.dtype}, "
            "which cannot be read here. Use an unquantised checkpoint."
        )


def unreadable(
    name: Path | str, error: Exception, kind: type[PrefregError] = VectorError
) -> PrefregError:
    """Make the error that a file could not be read."""
    return kind(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.")
