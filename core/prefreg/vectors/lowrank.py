"""Low-rank vectors: φ of a weight as the product b·a of two thin factors, never kept whole.

All arithmetic of factors is exact but for rounding; a lower rank is the one thing that loses.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prefreg.errors import VectorError
from prefreg.vectors.stored import StoredVector, Vector, WrittenFile, vector_writer
from prefreg.vectors.tensors import require_storable, to_bytes

TILE_ROWS = 8
"""Rows that are multiplied at once. Tiles begin at multiples of this and never at a block's edge,
so that an element of the product has the same bits whichever block it was asked for in."""

_EXACT_SIZE = 1024
# Halko, Martinsson and Tropp (2011) advise 5 to 10 more and a pass or two; the spectra of
# preference vectors are flat, so some more of both.
_OVERSAMPLED, _PASSES = 16, 4
_OPEN_TENSORS = 8  # a few: the composition works on several weights at a time


@dataclass(frozen=True, slots=True)
class Factors:
    """φ of one weight: b·a, with b of (rows, rank) and a of (rank, columns).

    Both may be stacks, for a weight that is a stack of matrices: each has its own product.
    """

    b: torch.Tensor
    a: torch.Tensor

    @property
    def rank(self) -> int:
        """How many columns b has; the rank of the product is at most that."""
        return self.b.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the product."""
        return (*self.b.shape[:-1], self.a.shape[-1])

    def scaled(self, factor: float) -> "Factors":
        """Return the factors of `factor`·φ: one side alone carries sign and scale."""
        return Factors(self.b, self.a * factor)

    def padded(self, rank: int) -> "Factors":
        """Return the same product in factors of a larger rank, filled up with zeros."""
        room = rank - self.rank
        pad = torch.nn.functional.pad
        return Factors(pad(self.b, (0, room)), pad(self.a, (0, 0, 0, room)))

    def transposed(self) -> "Factors":
        """Return the factors of the transposed product."""
        return Factors(self.a.mT.contiguous(), self.b.mT.contiguous())

    def wide(self) -> "Factors":
        """Return the factors in float64, in which products of float32 are exact."""
        return Factors(self.b.double(), self.a.double())


FactorMap = Mapping[str, Factors]
"""The factors of a low-rank vector, by the names of the weights on disk."""


def concatenate(parts: Sequence[Factors]) -> Factors:
    """Return the factors of a sum, exactly: [b₁, b₂, …]·[a₁; a₂; …].

    Adding the factors themselves would multiply every b with every a.
    """
    return Factors(
        torch.cat([part.b for part in parts], -1), torch.cat([part.a for part in parts], -2)
    )


def subtract(positive: FactorMap, negative: FactorMap) -> dict[str, Factors]:
    """Return φ = φ₊ − φ₋; a weight that only one of them changes keeps that one's rank."""
    negated = {name: part.scaled(-1.0) for name, part in negative.items()}
    result = {}
    for name in sorted(positive.keys() | negative.keys()):
        parts = [factors[name] for factors in (positive, negated) if name in factors]
        if len({part.shape for part in parts}) != 1:
            raise VectorError(f"{name!r} has another shape in one pole than in the other.")
        result[name] = concatenate(parts)
    return result


def dot(first: FactorMap, second: FactorMap) -> float:
    """Return the inner product of two vectors without making a dense matrix.

    ⟨b₁a₁, b₂a₂⟩ is the trace of (b₁ᵀb₂)(a₂a₁ᵀ). A weight that one of them lacks counts as zero.
    """
    return sum(inner(first[name], second[name]) for name in sorted(first.keys() & second.keys()))


def inner(one: Factors, other: Factors) -> float:
    """Return the inner product of two products."""
    left, right = one.wide(), other.wide()
    return float(torch.sum((left.b.mT @ right.b) * (left.a @ right.a.mT)))


def norms(factors: FactorMap) -> dict[str, float]:
    """Return the Frobenius norm of every weight's product."""
    # Rounding can turn the square of a product of zeros slightly negative.
    return {name: math.sqrt(max(0.0, inner(part, part))) for name, part in factors.items()}


class FactorTensors:
    """Products of factors, and whole tensors beside them, as a source of tensors."""

    def __init__(self, factors: FactorMap, whole: Mapping[str, torch.Tensor]) -> None:
        """Refer to both; no weight is in both."""
        self._factors, self._whole = factors, whole
        self._wide = functools.lru_cache(_OPEN_TENSORS)(lambda name: factors[name].wide())

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(sorted(self._factors.keys() | self._whole.keys()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        whole = self._whole.get(name)
        return self._factors[name].shape if whole is None else tuple(whole.shape)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor in float32."""
        shape = self.shape(name)
        return self.block(name, 0, math.prod(shape)).reshape(shape)

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a tensor in float32."""
        whole = self._whole.get(name)
        if whole is None:
            return multiply(self._wide(name), start, stop)
        return whole.flatten()[start:stop].float()


def multiply(wide: Factors, start: int, stop: int) -> torch.Tensor:
    """Return the flat elements `start:stop` of a product in float32, summed in float64."""
    if wide.b.ndim == 3:
        size = wide.b.shape[1] * wide.a.shape[2]
        parts = [
            multiply(
                Factors(wide.b[i], wide.a[i]), max(start - i * size, 0), min(stop - i * size, size)
            )
            for i in range(start // size, -(-stop // size))
        ]
        return torch.cat(parts) if parts else torch.empty(0)
    rows, columns = wide.shape
    first, last = start // columns, -(-stop // columns)
    low = first - first % TILE_ROWS
    high = min(rows, last + -last % TILE_ROWS)
    tiles = [
        (wide.b[row : row + TILE_ROWS] @ wide.a).to(torch.float32)
        for row in range(low, high, TILE_ROWS)
    ]
    return torch.cat(tiles).flatten()[start - low * columns : stop - low * columns]


@dataclass(frozen=True, slots=True)
class Recompressed:
    """Factors of a lower rank, and what that cost."""

    factors: Factors
    error: float
    """‖φ − φ of the lower rank‖."""
    norm: float
    """‖φ‖."""


def recompress(factors: Factors, rank: int) -> Recompressed:
    """Return the nearest product of at most this rank; smaller factors come back as they are."""
    if factors.rank <= rank:
        return Recompressed(factors, 0.0, math.sqrt(max(0.0, inner(factors, factors))))
    left, values, right = decompose(factors)
    kept = values[..., :rank].sqrt()
    size = kept.shape[-1]
    b = left[..., :size] * kept[..., None, :]
    a = kept[..., None] * right[..., :size].mT
    return Recompressed(
        Factors(b.to(torch.float32), a.to(torch.float32)),
        error=float(values[..., rank:].norm()),
        norm=float(values.norm()),
    )


def decompose(factors: Factors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the singular directions (as columns) and values of a product, in float64.

    By QR of both factors and a singular value decomposition between them, of the size of the
    rank: no matrix as large as the weight is made.
    """
    wide = factors.wide()
    left, left_core = torch.linalg.qr(wide.b)
    right, right_core = torch.linalg.qr(wide.a.mT)
    u, values, vt = torch.linalg.svd(left_core @ right_core.mT, full_matrices=False)
    return left @ u, values, right @ vt.mT


def truncate(matrix: torch.Tensor, rank: int) -> Recompressed:
    """Return the nearest product of at most this rank to a whole matrix.

    Exact in float64 up to 1024 rows or columns; beyond, by a randomised decomposition with a
    fixed seed, whose error is measured and not assumed.
    """
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= _EXACT_SIZE:
        u, values, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, values, v = torch.svd_lowrank(matrix, q=rank + _OVERSAMPLED, niter=_PASSES)
        vt = v.T
    kept = values[:rank].sqrt()
    b, a = (u[:, :rank] * kept).float(), (kept[:, None] * vt[:rank]).float()
    norm = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
    lost = float(torch.linalg.vector_norm(matrix - b @ a, dtype=torch.float64))
    return Recompressed(Factors(b.contiguous(), a.contiguous()), error=lost, norm=norm)


class LowRankVector(Vector):
    """A low-rank preference vector, read like a dense one: a tensor or a block at a time.

    The factors of a weight are stored as `NAME.b` and `NAME.a`, where NAME is the weight's in the
    base's checkpoint. Signs and scales are in `a`.
    """

    kind = form = "low-rank"
    dtype = "F32"

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
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
        return (*specs[f"{name}.b"].shape[:-1], specs[f"{name}.a"].shape[-1])

    def factors(self, name: str) -> Factors:
        """Return the factors of a weight in float32."""
        return Factors(self._whole(f"{name}.b"), self._whole(f"{name}.a"))

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
    tensors = {
        f"{name}.{side}": tensor.to("cpu", torch.float32)
        for name, part in factors.items()
        for side, tensor in (("b", part.b), ("a", part.a))
    }
    entries = [(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()]
    with vector_writer(destination, LowRankVector.kind, entries) as writer:
        for spec in writer.specs:
            writer.write(to_bytes(require_storable(spec.name, tensors[spec.name])))
        return WrittenFile(writer.finish(), writer.size)


def _check(stored: StoredVector) -> dict[str, int]:
    """Return the rank of every weight, when the factors are complete and fit each other."""
    ranks = {}
    for name in stored.weights(("b", "a"), "two factors"):
        b, a = stored.specs[f"{name}.b"], stored.specs[f"{name}.a"]
        stacked = len(b.shape) == len(a.shape) in (2, 3) and b.shape[:-2] == a.shape[:-2]
        fit = stacked and b.shape[-1] == a.shape[-2] > 0
        if not fit or {a.dtype, b.dtype} != {"F32"}:
            raise VectorError(
                f"The factors of {name!r} in {stored.label} do not fit: {b.dtype} "
                f"{list(b.shape)} and {a.dtype} {list(a.shape)}. Restore it from a backup."
            )
        ranks[name] = b.shape[-1]
    return ranks
