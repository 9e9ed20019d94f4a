"""Safetensors files: a strict reader of headers, and the layout of a file to be written."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from prefreg.errors import BaseModelError, PrefregError, unreadable
from prefreg.files import open_regular

DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits per element, in the order that the safetensors library gives to its types."""

_DTYPE_ORDER = {dtype: rank for rank, dtype in enumerate(DTYPE_BITS)}
_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000  # the limit of the safetensors library
_ALIGNMENT = 8
_MOST_DIMENSIONS = 64  # numpy's limit


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor lies in its file."""

    name: str
    dtype: str
    """The safetensors spelling: `F32`, `BF16`, `I64` and so on."""
    shape: tuple[int, ...]
    offset: int
    """Of the first byte, from the beginning of the file."""
    nbytes: int

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself."""

    tensors: dict[str, TensorSpec]
    """In the order of their bytes."""
    metadata: dict[str, str]


class _HeaderProblemError(Exception):
    """A reason why a header is not valid, before the file's name is known."""


def read_header(path: os.PathLike[str], error: type[PrefregError] = BaseModelError) -> Header:
    """Read and check the header of a file."""
    try:
        with open_regular(path) as stream:
            return read_header_of(
                stream, size=os.fstat(stream.fileno()).st_size, name=str(path), error=error
            )
    except OSError as reason:
        raise unreadable(str(path), reason, error) from reason


def read_header_of(
    stream: BinaryIO, *, size: int, name: str, error: type[PrefregError] = BaseModelError
) -> Header:
    """Read and check the header at the start of an open stream of `size` bytes."""
    try:
        length = int.from_bytes(_exactly(stream, _LENGTH_BYTES), "little")
        if length > min(_MAX_HEADER, size - _LENGTH_BYTES):
            raise _HeaderProblemError(f"its header claims {length} bytes of a file of {size}")
        entries = _parse(_exactly(stream, length))
        start = _LENGTH_BYTES + length
        metadata = _metadata(entries.pop("__metadata__", {}))
        specs = [_spec(key, value, start) for key, value in entries.items()]
        return Header(_in_order(specs, start=start, size=size), metadata)
    except _HeaderProblemError as reason:
        raise error(
            f"{name} is not a sound safetensors file: {reason}. Fetch or save it again."
        ) from None


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise _HeaderProblemError("it ends inside its header")
    return data


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise _HeaderProblemError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise _HeaderProblemError("its header is not a JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _HeaderProblemError("a name stands twice in its header")
    return result


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _HeaderProblemError("its metadata is not a map of strings")
    return value


def _spec(name: str, entry: object, start: int) -> TensorSpec:
    # repr and ascii keep a hostile name from breaking the terminal or the encoder.
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderProblemError(f"tensor {name!a} is not described by dtype, shape and offsets")
    if not name.isprintable():
        raise _HeaderProblemError(f"tensor {name!a} has a name that cannot be printed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _HeaderProblemError(f"tensor {name!a} has the unknown dtype {dtype!a:.40}")
    if not _are_counts(shape):
        raise _HeaderProblemError(f"tensor {name!a} has no valid shape")
    if len(shape) > _MOST_DIMENSIONS:  # the product of very many takes minutes
        raise _HeaderProblemError(f"tensor {name!a} has {len(shape)} dimensions")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderProblemError(f"tensor {name!a} has no valid offsets")
    begin, end = offsets
    if math.prod(shape) * DTYPE_BITS[dtype] != 8 * (end - begin):
        raise _HeaderProblemError(
            f"tensor {name!a} has {end - begin} bytes, which its shape and dtype do not make"
        )
    return TensorSpec(name, dtype, tuple(shape), start + begin, end - begin)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def _in_order(specs: list[TensorSpec], *, start: int, size: int) -> dict[str, TensorSpec]:
    specs.sort(key=lambda spec: (spec.offset, spec.nbytes))
    position = start
    for spec in specs:
        if spec.offset != position:
            kind = "overlaps another" if spec.offset < position else "leaves a gap before it"
            raise _HeaderProblemError(f"tensor {spec.name!a} {kind}")
        position += spec.nbytes
    if position != size:
        raise _HeaderProblemError(f"its tensors end at byte {position}, the file at {size}")
    return {spec.name: spec for spec in specs}


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Return how many bytes a tensor takes on disk."""
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def plan_file(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[TensorSpec]]:
    """Lay out a file of (name, dtype, shape): the bytes of its header, and every tensor's place.

    The order is that of the safetensors library, wide types first and then names, so that a file
    written to this plan is the file that the library would have written.
    """
    ordered = sorted(tensors, key=lambda tensor: (-_DTYPE_ORDER[tensor[1]], tensor[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape in ordered:
        end = position + tensor_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    body = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % _ALIGNMENT)
    start = _LENGTH_BYTES + len(body)
    specs = []
    for name, dtype, shape in ordered:
        nbytes = tensor_bytes(dtype, shape)
        specs.append(TensorSpec(name, dtype, shape, start, nbytes))
        start += nbytes
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body, specs


Buffer = bytes | bytearray | memoryview

_READ_BYTES = 8 << 20  # bounds the copy that pread makes
_HAS_PREADV = hasattr(os, "preadv")  # reads without that copy; not everywhere


def read_into(file: int, offset: int, view: memoryview) -> None:
    """Fill `view` with the bytes at `offset` of an open file; safe from several threads."""
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
    """Write all of `data` at `offset` of an open file; safe from several threads."""
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

    def __exit__(self, *_: object) -> None:
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
