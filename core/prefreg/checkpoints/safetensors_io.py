"""The bytes of safetensors files: reading at an offset, writing front to back with a hash."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from prefreg.checkpoints.safetensors_file import plan_file

Buffer = bytes | bytearray | memoryview

_READ_BYTES = 8 << 20  # bounds the copy that pread makes
_HAS_PREADV = hasattr(os, "preadv")  # reads without that copy; not everywhere


def read_into(file: int, offset: int, view: memoryview) -> None:
    """Fill `view` with the bytes at `offset` of an open file; safe from several threads.

    Raises:
        EOFError: The file has become shorter than its header said.
        OSError: The file cannot be read.
    """
    done = 0
    while done < len(view):
        if _HAS_PREADV:
            count = os.preadv(file, [view[done:]], offset + done)
        else:
            data = os.pread(file, min(_READ_BYTES, len(view) - done), offset + done)
            count = len(data)
            view[done : done + count] = data
        if not count:
            raise EOFError(f"the file ends at byte {offset + done}")
        done += count


def write_at(file: int, offset: int, data: Buffer) -> None:
    """Write all of `data` at `offset` of an open file; safe from several threads.

    Raises:
        OSError: The file cannot be written.
    """
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(file, view[done:], offset + done)


class SafetensorsWriter:
    """Write one safetensors file from front to back, hashing on the way.

    The tensors' bytes must follow each other in the order of `specs`. The file is complete, and
    on the disk rather than in its cache, after `finish`; without it leaving the context only
    closes the file, which the caller then removes.
    """

    def __init__(
        self,
        path: Path,
        tensors: Iterable[tuple[str, str, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ) -> None:
        """Create the file, which must not exist, and write its header."""
        header, self.specs = plan_file(tensors, metadata)
        self.size = len(header) + sum(spec.nbytes for spec in self.specs)
        self._hash = hashlib.sha256()
        self._written = 0
        self._stream = path.open("xb")
        try:
            self.write(header)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._stream.close()

    def write(self, data: Buffer) -> None:
        """Append bytes of the tensor whose turn it is."""
        self._stream.write(data)
        self._hash.update(data)
        self._written += len(data)

    def finish(self) -> str:
        """Flush the file to the disk and return the sha256 of its content."""
        if self._written != self.size:
            raise AssertionError(f"{self._written} bytes were written of {self.size}")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._hash.hexdigest()
