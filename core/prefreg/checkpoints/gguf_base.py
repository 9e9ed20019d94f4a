"""GGUF files as bases: what their header says, what is refused, and their place in the cache.

A file is dequantised once; what it then is, a folder that transformers loads, lies in the cache
under the hash of the file (format: github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import json
import math
import mmap
import os
import re
import shutil
import struct
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefreg.checkpoints.checkpoint import SINGLE_FILE
from prefreg.config import cache_folder
from prefreg.errors import BaseModelError, unreadable
from prefreg.files import (
    beside,
    hash_bytes,
    hash_file,
    open_regular,
    remove_abandoned,
    write_whole,
)
from prefreg.json_values import fields_to_json, parse_json

HOW_TO_READ = "pip install gguf"
ORIGIN_FILE = "gguf.json"

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FORMAT = 1
"""Of the folders in the cache: another one is made anew."""
_SETTLED_NS = 1_000_000_000
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_DAMAGED = "It is damaged or not whole: fetch it again."
# The value types: u8, i8, u16, i16, u32, i32, f32, bool, u64, i64, f64; 8 is a string, 9 an array.
_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_Entry = tuple[str, tuple[int, ...], int, int]
"""A tensor's name, shape, type, and offset from where the tensors begin."""
_MOST_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class GGUFOrigin:
    """The file that a base was dequantised from."""

    file: str
    """Its name, without the folders."""
    sha256: str
    quantisation: str
    """The types of its tensors, that of most weights first, as in `Q4_1, F32`."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor as it lies in the file."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as torch has it."""
    kind: int
    """Of the enumeration `ggml_type`."""
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file whose header was read and checked against its size."""

    path: Path
    metadata: Mapping[str, Any]
    """Numbers, truths and strings by key; of an array its length."""
    tensors: tuple[GGUFTensor, ...]
    kinds: Mapping[int, str]
    """The names of the types of its tensors."""

    @property
    def architecture(self) -> str:
        """Return what llama.cpp calls the architecture."""
        return str(self.metadata.get("general.architecture", "nameless"))

    @property
    def quantisation(self) -> str:
        """Return the types of the tensors, that of most weights first."""
        weights: Counter[str] = Counter()
        for tensor in self.tensors:
            weights[self.kinds[tensor.kind]] += tensor.elements
        return ", ".join(name for name, _ in weights.most_common())


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a file that is, or is called, a GGUF file."""
    if not path.is_file():
        return False
    return path.suffix == ".gguf" or _begins(path) == _MAGIC


def open_gguf(path: Path) -> tuple[Path, GGUFOrigin]:
    """Return the folder that a GGUF file is as a base, dequantised now or earlier.

    Raises:
        BaseModelError: The file is damaged, or of a kind that cannot be read; or the package
            `gguf` is not there, or the disk or the memory too small.
    """
    if _begins(path) != _MAGIC:
        raise BaseModelError(f"{path} is no GGUF file: it does not begin as one.")
    place = cache_folder() / "gguf"
    sha256 = _hash_of(path, place)
    folder = place / f"{sha256[:32]}-{_FORMAT}"
    origin = _read_origin(folder)
    if origin is None:
        origin = _dequantise(path, sha256, folder)
    return folder, origin


def read_gguf(path: Path) -> GGUFFile:
    """Read and check the header of a GGUF file.

    Raises:
        BaseModelError: It is damaged, shorter than its header says, one of several parts, of an
            unknown version, or holds a type of tensors that is not known.
    """
    try:
        import gguf
    except ImportError as error:
        raise BaseModelError(
            f"{path.name} is read by the package gguf, which is absent. Get it: `{HOW_TO_READ}`"
        ) from error
    parts = _PART.search(path.name)
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                version, metadata, entries, end = _Reader(data).header()
    except OSError as error:
        raise unreadable(path, error, BaseModelError) from error
    except (struct.error, ValueError, OverflowError, MemoryError, IndexError) as error:
        raise BaseModelError(f"{path} cannot be read as GGUF. {_DAMAGED}") from error
    if version not in _VERSIONS:
        raise BaseModelError(f"{path} is GGUF of version {version}; versions 2 and 3 can be read.")
    if parts or int(metadata.get("split.count", 1)) > 1:
        count = int(parts[1]) if parts else metadata["split.count"]
        raise BaseModelError(
            f"{path} is one of {count} parts. Join them by `llama-gguf-split --merge` of llama.cpp."
        )
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise BaseModelError(f"{path} has tensors aligned to {alignment!r} bytes. {_DAMAGED}")
    start = -(-end // alignment) * alignment
    kinds: dict[int, str] = {}
    tensors = []
    for name, shape, kind, offset in entries:
        try:
            known = gguf.GGMLQuantizationType(kind)
            block, nbytes = gguf.GGML_QUANT_SIZES[known]
        except (ValueError, KeyError):
            raise BaseModelError(
                f"{path} holds {name!r} in the type {kind}, which gguf does not know. A newer gguf "
                "may: `pip install --upgrade gguf`"
            ) from None
        kinds[kind] = known.name
        if not shape or shape[-1] % block:
            raise BaseModelError(f"{path}: the shape of {name!r} does not fit its type. {_DAMAGED}")
        length = math.prod(shape) // block * nbytes
        if start + offset + length > size:
            raise BaseModelError(f"{path} ends before its tensor {name!r} does. {_DAMAGED}")
        tensors.append(GGUFTensor(name, shape, kind, start + offset, length))
    if not tensors or len({tensor.name for tensor in tensors}) != len(tensors):
        raise BaseModelError(f"{path} holds no tensor, or one twice. {_DAMAGED}")
    return GGUFFile(path, metadata, tuple(tensors), kinds)


class _Reader:
    """Reads values one after the other, none beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(_MAGIC)

    def header(self) -> tuple[int, dict[str, Any], list[_Entry], int]:
        """Return version, metadata, tensors and where they end."""
        version, count, keys = self._take("<IQQ")
        if version not in _VERSIONS:
            return version, {}, [], 0
        metadata = {}
        for _ in range(keys):
            key = self._string()
            (kind,) = self._take("<I")
            metadata[key] = self._value(kind)
        entries = []
        for _ in range(count):
            name = self._string()
            (dimensions,) = self._take("<I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError("too many dimensions")
            shape = self._take(f"<{dimensions}Q")[::-1]
            kind, offset = self._take("<IQ")
            entries.append((name, shape, kind, offset))
        return version, metadata, entries, self._at

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _string(self) -> str:
        (length,) = self._take("<Q")
        text = self._data[self._at : self._at + length]
        if len(text) != length:
            raise ValueError("a string ends behind the file")
        self._at += length
        return text.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._take(f"<{_SCALARS[kind]}")[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError("an unknown type of value")
        inner, count = self._take("<IQ")
        if inner in _SCALARS:
            self._at += count * struct.calcsize(f"<{_SCALARS[inner]}")
            if self._at > len(self._data):
                raise ValueError("an array ends behind the file")
            return count
        if inner != _STRING:
            raise ValueError("an array of an unknown type")
        for _ in range(count):
            (length,) = self._take("<Q")
            self._at += length
        return count


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC))
    except OSError as error:
        raise unreadable(path, error, BaseModelError) from error


def _dequantise(path: Path, sha256: str, folder: Path) -> GGUFOrigin:
    """Make the folder beside its place, which it takes when it is whole."""
    found = read_gguf(path)
    # Torch and transformers: a base that was dequantised earlier does without.
    from prefreg.checkpoints.dequantising import write_folder

    origin = GGUFOrigin(path.name, sha256, found.quantisation)
    partial = beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent)
        partial.mkdir()
        write_folder(found, partial)
        (partial / ORIGIN_FILE).write_text(json.dumps(fields_to_json(origin), indent=2) + "\n")
        with suppress(FileExistsError):
            _take_place(partial, folder)
    except OSError as error:
        raise BaseModelError(
            f"{path.name} cannot be dequantised into {folder.parent}: {error.strerror or error}. "
            "PREFREG_CACHE names another place."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return origin


def _take_place(partial: Path, folder: Path) -> None:
    """Rename it, unless another process has been faster; what is not whole makes way."""
    if folder.exists() and _read_origin(folder) is None:
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        if _read_origin(folder) is None:
            raise


def _read_origin(folder: Path) -> GGUFOrigin | None:
    try:
        origin = GGUFOrigin(**parse_json((folder / ORIGIN_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return origin if (folder / SINGLE_FILE).is_file() else None


def _hash_of(path: Path, place: Path) -> str:
    """Return the sha256 of a file, which is remembered as long as the file is the same."""
    stat = path.stat()
    stamp = [os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    entry = place / "hashes" / f"{hash_bytes(json.dumps(stamp).encode())}.txt"
    with suppress(OSError, ValueError):
        known = entry.read_text("ascii").strip()
        if re.fullmatch(r"[0-9a-f]{64}", known):
            return known
    try:
        found = hash_file(path)
    except OSError as error:
        raise unreadable(path, error, BaseModelError) from error
    if stat.st_mtime_ns < time.time_ns() - _SETTLED_NS:
        with suppress(OSError):  # a cache that cannot be written only costs time
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_whole(entry, found)
    return found
