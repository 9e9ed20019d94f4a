"""The bytes of a stored vector: a safetensors file, or what a registry holds."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from prefreg.checkpoints.safetensors_file import Header, TensorSpec, read_header_of
from prefreg.checkpoints.safetensors_io import read_into
from prefreg.errors import VectorError
from prefreg.vectors.elements import unreadable

if TYPE_CHECKING:
    import torch


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
        """Return the flat elements `start:stop` of a stored tensor, in its own dtype.

        Raises:
            VectorError: The file cannot be read.
        """
        import torch

        from prefreg.vectors.tensors import TORCH_DTYPES, to_bytes

        room = torch.empty(stop - start, dtype=TORCH_DTYPES[self.specs[name].dtype])
        self.read_bytes(to_bytes(room), name, start)
        return room

    def read_bytes(self, view: memoryview, name: str, start: int) -> None:
        """Fill `view` with the bytes of a stored tensor from its flat element `start` on.

        Raises:
            VectorError: The file cannot be read.
        """
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
