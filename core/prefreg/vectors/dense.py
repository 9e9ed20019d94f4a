"""Dense vectors: one tensor per weight, in a safetensors file or in the registry's bytes."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from prefreg.checkpoints.safetensors_file import Header, read_header_of
from prefreg.errors import VectorError
from prefreg.vectors.tensors import TORCH_DTYPES, read_elements, to_bytes, unreadable

METADATA: Mapping[str, str] = {"prefreg": '{"format":1,"kind":"dense"}'}
"""The whole metadata of a dense vector's file, so that equal vectors are equal files."""

STORAGE_DTYPES = ("F32", "BF16")


class DenseVector:
    """A dense preference vector that is read a tensor or a block at a time."""

    dtype: str
    """`F32` or `BF16`, as it is stored."""

    def __init__(self, header: Header, *, file: int | None, data: bytes | None, label: str) -> None:
        """Check the header; use `open`."""
        self._label = label
        self._file = file
        self._data = None if data is None else memoryview(data)
        if header.metadata != METADATA:
            raise VectorError(
                f"{label} is not a dense preference vector: its metadata is not "
                f"{dict(METADATA)!r}. Name a file that prefreg wrote."
            )
        dtypes = {spec.dtype for spec in header.tensors.values()}
        if len(dtypes) != 1 or not dtypes <= set(STORAGE_DTYPES):
            found = ", ".join(sorted(dtypes)) or "nothing"
            raise VectorError(f"{label} holds {found}; a dense vector holds only F32 or only BF16.")
        self.dtype = dtypes.pop()
        self._specs = dict(sorted(header.tensors.items()))

    @classmethod
    def open(cls, source: Path | bytes, *, label: str | None = None) -> Self:
        """Open a file, or bytes from a registry, and check its header.

        Messages call the vector by its label, or else by its path.

        Raises:
            VectorError: It cannot be read, is damaged, or is not a dense vector.
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
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(self._specs)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._specs[name].shape

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor in float32.

        Raises:
            VectorError: The file cannot be read.
        """
        spec = self._specs[name]
        return self.block(name, 0, spec.elements).reshape(spec.shape)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a tensor in float32.

        Raises:
            VectorError: The file cannot be read.
        """
        spec = self._specs[name]
        if self._data is not None:
            flat = torch.empty(stop - start, dtype=TORCH_DTYPES[spec.dtype])
            begin = spec.offset + start * flat.itemsize
            to_bytes(flat)[:] = self._data[begin : begin + flat.nbytes]
            return flat.to(torch.float32)
        if self._file is None:
            raise ValueError(f"{self._label} is closed")
        try:
            return read_elements(self._file, spec, start, stop).to(torch.float32)
        except (OSError, EOFError) as error:
            raise unreadable(self._label, error) from error
