"""What is known of stored numbers without torch: their dtypes, and how they are cut into blocks."""

from collections.abc import Iterator
from pathlib import Path

from prefreg.errors import PrefregError, UsageError, VectorError

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


def require_device(text: str) -> None:
    """Check that `cpu`, `cuda` or `cuda:1` is a device here.

    Raises:
        UsageError: There is no such device here.
    """
    if text == "cpu":  # no need of torch to know that
        return
    import torch

    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"{text!r} is no device. Use cpu, cuda or cuda:1.") from None
    count = torch.cuda.device_count()
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
        return
    raise UsageError(f"There is no device {text!r} here; {count} GPUs are. Use cpu.")


def blocks(elements: int, size: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Cut a flat tensor into (start, stop) pieces."""
    for start in range(0, elements, size):
        yield start, min(start + size, elements)


def unreadable(
    name: Path | str, error: Exception, kind: type[PrefregError] = VectorError
) -> PrefregError:
    """Make the error that a file could not be read."""
    return kind(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.")
