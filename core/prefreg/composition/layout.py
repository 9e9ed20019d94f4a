"""What is to be written: weight files, their tensors and dtypes, and what is added to each."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from prefreg.axes.methods import Combine
from prefreg.checkpoints.checkpoint import SINGLE_FILE, Checkpoint, StoredTensor
from prefreg.checkpoints.safetensors_file import plan_file, tensor_bytes
from prefreg.checkpoints.tensor_names import is_weight
from prefreg.composition.plan import TensorTerm
from prefreg.errors import BaseModelError, UsageError, unreadable
from prefreg.vectors.dense import DenseVector

METADATA: Mapping[str, str] = {"format": "pt"}
"""What transformers asks of a weight file before it loads it."""

PLAIN = {"BF16": 2, "F32": 4}
"""The dtypes that are added up without torch, and the bytes of a number."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_MOST = 2**63  # bytes that no file reaches
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor of the base and the dtype it is written in."""

    stored: StoredTensor
    dtype: str

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the output."""
        return tensor_bytes(self.dtype, self.stored.spec.shape)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A weight file to be written."""

    name: str
    tensors: tuple[OutputTensor, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes its tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def size(self) -> int:
        """How many bytes the whole file takes."""
        return self.nbytes + len(plan_file(self.entries(), METADATA)[0])

    def entries(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return name, dtype and shape of every tensor."""
        return [(t.stored.spec.name, t.dtype, t.stored.spec.shape) for t in self.tensors]


@dataclass(frozen=True, slots=True)
class WeightWork:
    """A weight of the output, and what is added to the base's."""

    tensor: OutputTensor
    terms: Sequence[TensorTerm]
    combine: Future[Combine] | None
    """What the method adds to a block; None for the plain sum."""

    @property
    def name(self) -> str:
        """The name of the weight on disk."""
        return self.tensor.stored.spec.name

    @property
    def is_copy(self) -> bool:
        """Whether the base's bytes are the output's."""
        return not self.terms and self.tensor.dtype == self.tensor.stored.spec.dtype

    @property
    def is_plain(self) -> bool:
        """Whether it is the plain sum of dense vectors, all in the two usual dtypes."""
        dtypes = {self.tensor.stored.spec.dtype, self.tensor.dtype}
        for term in self.terms:
            if not isinstance(term.vector, DenseVector):
                return False
            dtypes.add(term.vector.dtype)
        return bool(self.terms) and self.combine is None and dtypes <= PLAIN.keys()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Name the base's file where it cannot be read."""
        try:
            yield
        except (OSError, EOFError) as error:
            raise unreadable(self.tensor.stored.file, error, BaseModelError) from error


def parse_size(text: str) -> int:
    """Read a size as transformers spells it: `5GB`, `200MB`, `1GiB`."""
    match = _SIZE.fullmatch(text.strip())
    if match:
        unit = (match[2] or "").lower()
        size = float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1]]
        if 1 <= size < _MOST:
            return int(size)
    raise UsageError(f"{text!r} is no size. Write it as 5GB, 200MB or 1GiB.")


def output_dtype(stored: StoredTensor, dtype: str | None) -> str:
    """Return the dtype of a tensor's output: the one asked for if it is a weight, else its own."""
    return dtype if dtype and is_weight(stored) else stored.spec.dtype


def plan_files(
    checkpoint: Checkpoint, *, dtype: str | None, max_shard_size: int | None
) -> tuple[OutputFile, ...]:
    """Lay the weights out over files: as the base does, or in order up to a size."""
    tensors = [
        OutputTensor(stored, output_dtype(stored, dtype)) for stored in checkpoint.tensors.values()
    ]
    if max_shard_size is not None:
        return _pack(tensors, max_shard_size)
    return tuple(
        OutputFile(shard, tuple(t for t in tensors if t.stored.file.name == shard))
        for shard in checkpoint.shards
    )


def index_file(files: Sequence[OutputFile]) -> bytes | None:
    """Return the content of the index, or None for a single file that needs none."""
    if [file.name for file in files] == [SINGLE_FILE]:
        return None
    weight_map = {t.stored.spec.name: file.name for file in files for t in file.tensors}
    metadata = {"total_size": sum(file.nbytes for file in files)}
    index = {"metadata": metadata, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _pack(tensors: Sequence[OutputTensor], max_shard_size: int) -> tuple[OutputFile, ...]:
    shards: list[list[OutputTensor]] = [[]]
    room = max_shard_size
    for tensor in tensors:
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1].append(tensor)
        room -= tensor.nbytes
    if len(shards) == 1:
        return (OutputFile(SINGLE_FILE, tuple(shards[0])),)
    return tuple(
        OutputFile(f"model-{number:05d}-of-{len(shards):05d}.safetensors", tuple(shard))
        for number, shard in enumerate(shards, start=1)
    )
