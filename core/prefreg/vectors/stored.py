"""Stored vectors of every kind: their bytes, how they are read in blocks, and how they are written.

Equal tensors give equal files, and a file is there whole or not at all. Nothing here loads torch
before a tensor is read.
"""

import io
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from prefreg.checkpoints.safetensors_file import (
    Header,
    SafetensorsWriter,
    TensorSpec,
    read_header_of,
    read_into,
)
from prefreg.errors import OutputError, UsageError, VectorError, listed, unreadable
from prefreg.files import ByteRanges, Source, descriptor_of, replacing
from prefreg.values import dtype_name

if TYPE_CHECKING:
    import torch

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The dtypes a model can be written in, with the names that transformers uses."""

BLOCK_ELEMENTS = 1 << 18
"""How many numbers are worked on at once: few enough for little memory, enough for speed."""


def parse_dtype(text: str) -> str:
    """Return the safetensors spelling of `float32`, `bf16`, `F16` and the like."""
    name = dtype_name(text)
    return next(spelling for spelling, known in DTYPE_NAMES.items() if known == name)


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


class StoredVector:
    """Open bytes with a checked header; what the tensors in it mean is the kinds' own matter."""

    def __init__(
        self, header: Header, *, file: int | None, data: bytes | ByteRanges | None, label: str
    ) -> None:
        """Take the bytes as they are; use `open`."""
        self.label = label
        self.metadata: Mapping[str, str] = header.metadata
        self.specs: Mapping[str, TensorSpec] = dict(sorted(header.tensors.items()))
        self._file = file
        self._ranges = data if isinstance(data, ByteRanges) else None
        self._data = memoryview(data) if isinstance(data, bytes) else None

    @classmethod
    def open(cls, source: Source, *, label: str | None = None) -> Self:
        """Open a file, or bytes from a registry or its store, and check its header.

        Messages call the vector by its label, or else by its path.
        """
        if isinstance(source, bytes):
            name = label or "The stored vector"
            header = read_header_of(
                io.BytesIO(source), size=len(source), name=name, error=VectorError
            )
            return cls(header, file=None, data=source, label=name)
        name = f"{label} in {source}" if label else str(source)
        if isinstance(source, ByteRanges):
            try:
                with source.stream() as stream:
                    header = read_header_of(stream, size=source.size, name=name, error=VectorError)
            except OSError as error:
                raise unreadable(name, error, VectorError) from error
            return cls(header, file=None, data=source, label=name)
        try:
            file = descriptor_of(source)
        except OSError as error:
            raise unreadable(name, error, VectorError) from error
        try:
            with open(file, "rb", closefd=False) as stream:
                size = os.fstat(file).st_size
                header = read_header_of(stream, size=size, name=name, error=VectorError)
            return cls(header, file=file, data=None, label=name)
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError):
                raise unreadable(name, error, VectorError) from error
            raise

    def weights(self, parts: Sequence[str], told: str) -> tuple[str, ...]:
        """Return the names of the weights, where each has its `parts` and nothing else is stored.

        A weight's part is stored as `NAME.PART`; a message calls the parts what `told` says.
        """
        names = sorted({name.rpartition(".")[0] for name in self.specs})
        wanted = {f"{name}.{part}" for name in names for part in parts}
        if not names or wanted != set(self.specs):
            wrong = listed(wanted ^ set(self.specs)) if names else "anything"
            raise VectorError(
                f"{self.label} does not hold {told} for every weight: see {wrong}. "
                "Restore it from a backup."
            )
        return tuple(names)

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
        try:
            if self._ranges is not None:
                self._ranges.read_into(begin, view)
                return
            if self._file is None:
                raise ValueError(f"{self.label} is closed")
            read_into(self._file, begin, view)
        except (OSError, EOFError) as error:
            raise unreadable(self.label, error, VectorError) from error


class Vector(ABC):
    """A vector whose bytes are open, read a tensor or a block at a time; a context closes them."""

    kind: ClassVar[str]
    """As the registry calls it."""
    form: ClassVar[str]
    """As messages call it."""
    dtype: str
    """Of the numbers as they are stored."""

    def __init__(self, stored: StoredVector) -> None:
        """Check that the header is of this kind; use `open`."""
        if stored.metadata != metadata_of(self.kind):
            raise VectorError(
                f"{stored.label} is not a {self.form} preference vector: its metadata is not "
                f"{metadata_of(self.kind)!r}. Name a file that prefreg wrote."
            )
        self.stored = stored

    @classmethod
    def open(cls, source: Source, *, label: str | None = None) -> Self:
        """Open a file, or bytes from a registry or its store; `label` names it in messages."""
        stored = StoredVector.open(source, label=label)
        try:
            return cls(stored)
        except BaseException:
            stored.close()
            raise

    def __enter__(self) -> Self:
        """Return the vector itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self.stored.close()

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the weights that it changes, sorted."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""

    @abstractmethod
    def block(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Return the flat elements `start:stop` of a weight's φ in float32."""

    def tensor(self, name: str) -> "torch.Tensor":
        """Return a weight's φ in float32, whole."""
        shape = self.shape(name)
        return self.block(name, 0, math.prod(shape)).reshape(shape)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is complete on the disk."""

    sha256: str
    size: int


@contextmanager
def vector_writer(
    destination: Path, kind: str, tensors: Sequence[tuple[str, str, tuple[int, ...]]]
) -> Iterator[SafetensorsWriter]:
    """Write tensors of (name, dtype, shape) beside the destination; moved there when whole."""
    if not tensors:
        raise VectorError("A vector without tensors cannot be stored.")
    try:
        with (
            replacing(destination) as partial,
            SafetensorsWriter(partial, tensors, metadata_of(kind)) as writer,
        ):
            yield writer
    except OSError as error:
        raise OutputError(f"{destination} cannot be written: {error.strerror}.") from error


def metadata_of(kind: str) -> dict[str, str]:
    """Return the whole metadata of a vector's file, so that equal vectors are equal files."""
    return {"prefreg": f'{{"format":1,"kind":"{kind}"}}'}
