"""Dense vectors: one tensor per weight, in a safetensors file or in the registry's bytes."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from prefreg.checkpoints.safetensors_file import Header, TensorSpec, read_header_of, read_into
from prefreg.errors import PrefregError, UsageError, VectorError

if TYPE_CHECKING:
    import torch


DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The dtypes a model can be written in, with the names that transformers uses."""

BLOCK_ELEMENTS = 1 << 18
"""How many numbers are worked on at once: few enough for little memory, enough for speed."""


def parse_dtype(text: str) -> str:
    """Return the safetensors spelling of `float32`, `bf16`, `F16` and the like."""
    spellings = {"fp32": "F32", "f32": "F32", "fp16": "F16", "f16": "F16", "bf16": "BF16"}
    spellings |= {name: dtype for dtype, name in DTYPE_NAMES.items()}
    dtype = spellings.get(text.lower())
    if dtype is None:
        raise UsageError(f"{text!r} is no dtype. Use {', '.join(DTYPE_NAMES.values())}.")
    return dtype


def require_device(text: str) -> None:
    """Check that `cpu`, `cuda` or `cuda:1` is a device here."""
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


class StoredVector:
    """Open bytes with a checked header; what the tensors in it mean is the kinds' own matter."""

    def __init__(self, header: Header, *, file: int | None, data: bytes | None, label: str) -> None:
        """Take the bytes as they are; use `open`."""
        self.label = label
        self.metadata: Mapping[str, str] = header.metadata
        self.specs: Mapping[str, TensorSpec] = dict(sorted(header.tensors.items()))
        self._file = file
        self._data = None if data is None else memoryview(data)

    @classmethod
    def open(cls, source: Path | bytes, *, label: str | None = None) -> Self:
        """Open a file, or bytes from a registry, and check its header.

        Messages call the vector by its label, or else by its path.

        Raises:
            VectorError: It cannot be read, or is damaged.
        """
        if isinstance(source, bytes):
            name = label or "The stored vector"
            header = read_header_of(
                io.BytesIO(source), size=len(source), name=name, error=VectorError
            )
            return cls(header, file=None, data=source, label=name)
        name = f"{label} in {source}" if label else str(source)
        try:
            file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(name, error) from error
        try:
            with open(file, "rb", closefd=False) as stream:
                size = os.fstat(file).st_size
                header = read_header_of(stream, size=size, name=name, error=VectorError)
            return cls(header, file=file, data=None, label=name)
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError):
                raise unreadable(name, error) from error
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Return the flat elements `start:stop` of a stored tensor, in its own dtype."""
        import torch

        from prefreg.vectors.tensors import TORCH_DTYPES, to_bytes

        room = torch.empty(stop - start, dtype=TORCH_DTYPES[self.specs[name].dtype])
        self.read_bytes(to_bytes(room), name, start)
        return room

    def read_bytes(self, view: memoryview, name: str, start: int) -> None:
        """Fill `view` with the bytes of a stored tensor from its flat element `start` on."""
        spec = self.specs[name]
        begin = spec.offset + start * spec.nbytes // max(spec.elements, 1)
        if self._data is not None:
            view[:] = self._data[begin : begin + len(view)]
            return
        if self._file is None:
            raise ValueError(f"{self.label} is closed")
        try:
            read_into(self._file, begin, view)
        except (OSError, EOFError) as error:
            raise unreadable(self.label, error) from error


class OpenVector:
    """A vector whose bytes are open: a context that closes them at its end."""

    def __init__(self, stored: StoredVector) -> None:
        """Refer to the bytes; the kinds check what is in them."""
        self.stored = stored

    @classmethod
    def open(cls, source: Path | bytes, *, label: str | None = None) -> Self:
        """Open a file, or bytes from a registry; `label` names it in messages.

        Raises:
            VectorError: It cannot be read, is damaged, or is of another kind.
        """
        stored = StoredVector.open(source, label=label)
        try:
            return cls(stored)
        except BaseException:
            stored.close()
            raise

    def __enter__(self) -> Self:
        """Return the vector itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self.stored.close()


METADATA: Mapping[str, str] = {"prefreg": '{"format":1,"kind":"dense"}'}
"""The whole metadata of a dense vector's file, so that equal vectors are equal files."""

STORAGE_DTYPES = ("F32", "BF16")


class DenseVector(OpenVector):
    """A dense preference vector that is read a tensor or a block at a time."""

    dtype: str
    """`F32` or `BF16`, as it is stored."""

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
        if stored.metadata != METADATA:
            raise VectorError(
                f"{stored.label} is not a dense preference vector: its metadata is not "
                f"{dict(METADATA)!r}. Name a file that prefreg wrote."
            )
        dtypes = {spec.dtype for spec in stored.specs.values()}
        if len(dtypes) != 1 or not dtypes <= set(STORAGE_DTYPES):
            found = ", ".join(sorted(dtypes)) or "nothing"
            raise VectorError(
                f"{stored.label} holds {found}; a dense vector holds only F32 or only BF16."
            )
        self.dtype = dtypes.pop()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(self.stored.specs)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.stored.specs[name].shape

    def tensor(self, name: str) -> "torch.Tensor":
        """Return a tensor in float32."""
        spec = self.stored.specs[name]
        return self.block(name, 0, spec.elements).reshape(spec.shape)

    def block(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Return the flat elements `start:stop` of a tensor in float32."""
        return self.stored.read(name, start, stop).float()
