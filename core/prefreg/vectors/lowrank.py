"""Low-rank vectors: two thin factors per weight, whose product is never kept whole."""

import functools
from collections.abc import Mapping
from pathlib import Path

import torch

from prefreg.checkpoints.checkpoint import listed
from prefreg.checkpoints.safetensors_file import SafetensorsWriter
from prefreg.errors import VectorError
from prefreg.vectors.dense import OpenVector, StoredVector
from prefreg.vectors.factors import FactorMap, Factors, multiply
from prefreg.vectors.tensors import is_finite, to_bytes
from prefreg.vectors.writing import WrittenFile, written_whole

METADATA: Mapping[str, str] = {"prefreg": '{"format":1,"kind":"low-rank"}'}
"""The whole metadata of a low-rank vector's file, so that equal factors are equal files."""

_OPEN_TENSORS = 8  # a few: the composition works on several weights at a time


class LowRankVector(OpenVector):
    """A low-rank preference vector, read like a dense one: a tensor or a block at a time.

    The factors of a weight are stored as `NAME.b` and `NAME.a`, where NAME is the weight's in the
    base's checkpoint. Signs and scales are in `a`.
    """

    dtype = "F32"

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
        if stored.metadata != METADATA:
            raise VectorError(
                f"{stored.label} is not a low-rank preference vector: its metadata is not "
                f"{dict(METADATA)!r}. Name a file that prefreg wrote."
            )
        self._ranks = _check(stored)
        # Reading the factors of a weight once serves all of its blocks, in any thread.
        self._wide = functools.lru_cache(_OPEN_TENSORS)(lambda name: self.factors(name).wide())

    def close(self) -> None:
        """Close the file and forget what was read."""
        self._wide.cache_clear()
        super().close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights that it changes, sorted."""
        return tuple(self._ranks)

    @property
    def ranks(self) -> Mapping[str, int]:
        """The rank of every weight's factors."""
        return self._ranks

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight's product."""
        specs = self.stored.specs
        return specs[f"{name}.b"].shape[0], specs[f"{name}.a"].shape[1]

    def factors(self, name: str) -> Factors:
        """Return the factors of a weight in float32."""
        return Factors(self._whole(f"{name}.b"), self._whole(f"{name}.a"))

    def tensor(self, name: str) -> torch.Tensor:
        """Return the product of a weight's factors, whole, in float32."""
        rows, columns = self.shape(name)
        return self.block(name, 0, rows * columns).reshape(rows, columns)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a weight's product in float32.

        Only the rows that hold them are multiplied. The bits do not depend on the block.
        """
        return multiply(self._wide(name), start, stop)

    def _whole(self, name: str) -> torch.Tensor:
        spec = self.stored.specs[name]
        return self.stored.read(name, 0, spec.elements).float().reshape(spec.shape)


def write_low_rank(factors: FactorMap, destination: Path) -> WrittenFile:
    """Store a vector that is given by its factors; equal factors give equal files."""
    if not factors:
        raise VectorError("A vector without tensors cannot be stored.")
    tensors = {
        f"{name}.{side}": tensor.to("cpu", torch.float32)
        for name, part in factors.items()
        for side, tensor in (("b", part.b), ("a", part.a))
    }
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise VectorError(f"{name!r} of the vector holds NaN or infinity.")
    entries = [(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()]
    with (
        written_whole(destination) as partial,
        SafetensorsWriter(partial, entries, METADATA) as writer,
    ):
        for spec in writer.specs:
            writer.write(to_bytes(tensors[spec.name]))
        return WrittenFile(writer.finish(), writer.size)


def _check(stored: StoredVector) -> dict[str, int]:
    """Return the rank of every weight, when the factors are complete and fit each other."""
    weights = sorted({name.rpartition(".")[0] for name in stored.specs})
    wanted = {f"{name}.{side}" for name in weights for side in "ab"}
    if not weights or wanted != set(stored.specs):
        wrong = listed(wanted ^ set(stored.specs)) if weights else "anything"
        raise VectorError(
            f"{stored.label} does not hold two factors for every weight: see {wrong}. "
            "Restore it from a backup."
        )
    ranks = {}
    for name in weights:
        b, a = stored.specs[f"{name}.b"], stored.specs[f"{name}.a"]
        fit = len(b.shape) == len(a.shape) == 2 and b.shape[1] == a.shape[0] > 0
        if not fit or {a.dtype, b.dtype} != {"F32"}:
            raise VectorError(
                f"The factors of {name!r} in {stored.label} do not fit: {b.dtype} "
                f"{list(b.shape)} and {a.dtype} {list(a.shape)}. Restore it from a backup."
            )
        ranks[name] = b.shape[1]
    return ranks
