"""Sparse vectors: the numbers that are not zero, and their places."""

import functools
import math
from pathlib import Path

import torch

from prefreg.errors import VectorError
from prefreg.vectors.stored import StoredVector, Vector, WrittenFile, vector_writer
from prefreg.vectors.tensors import TORCH_DTYPES, TensorSource, require_storable, to_bytes

_VALUES = ("F32", "BF16")
_LARGEST = 1 << 31  # what the places, in four bytes each, can count
_OPEN_TENSORS = 8  # a few: the composition works on several weights at a time


class SparseVector(Vector):
    """A sparse preference vector, read like a dense one: a tensor or a block at a time.

    A weight is stored as `NAME.values` and `NAME.places`, their flat places in rising order, with
    its shape in `NAME.shape`.
    """

    kind = form = "sparse"

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
        self._names = _check(stored)
        self._shapes = {name: self._read_shape(name) for name in self._names}
        self.dtype = stored.specs[f"{self._names[0]}.values"].dtype
        # Reading the places of a weight once serves all of its blocks, in any thread.
        self._places = functools.lru_cache(_OPEN_TENSORS)(self._read_places)

    def close(self) -> None:
        """Close the file and forget what was read."""
        self._places.cache_clear()
        super().close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights, sorted."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return self._shapes[name]

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a weight's φ in float32."""
        places = self._places(name)
        edges = torch.searchsorted(places, torch.tensor([start, stop], dtype=places.dtype))
        first, last = map(int, edges)
        result = torch.zeros(stop - start)
        values = self.stored.read(f"{name}.values", first, last).float()
        result[places[first:last].long() - start] = values
        return result

    def _read_shape(self, name: str) -> tuple[int, ...]:
        sizes = self._whole(f"{name}.shape").tolist()
        if any(size < 0 for size in sizes) or math.prod(sizes) > _LARGEST:
            raise self._damaged(name)
        return tuple(sizes)

    def _read_places(self, name: str) -> torch.Tensor:
        places = self._whole(f"{name}.places")
        rising = bool((places.diff() > 0).all())
        if len(places) and not (rising and places[0] >= 0 and places[-1] < self._elements(name)):
            raise self._damaged(name)
        return places

    def _elements(self, name: str) -> int:
        return math.prod(self._shapes[name])

    def _whole(self, name: str) -> torch.Tensor:
        return self.stored.read(name, 0, self.stored.specs[name].elements)

    def _damaged(self, name: str) -> VectorError:
        return VectorError(
            f"The places of {name!r} in {self.stored.label} do not fit. Restore it from a backup."
        )


def write_sparse(
    source: TensorSource, destination: Path, *, share: float, dtype: str = "F32"
) -> WrittenFile:
    """Keep the largest |φ| of every weight, this share of its numbers and at least one.

    Of numbers of one size at the edge the first ones are kept, so that the share is exact. One
    weight at a time is in memory.
    """
    entries: list[tuple[str, str, tuple[int, ...]]] = []
    for name in source.names:
        shape = source.shape(name)
        elements = math.prod(shape)
        if elements > _LARGEST:
            raise VectorError(f"{name!r} has {elements} numbers, too many for a sparse vector.")
        kept = (min(elements, max(1, round(share * elements))),)
        entries.append((f"{name}.values", dtype, kept))
        entries.append((f"{name}.places", "I32", kept))
        entries.append((f"{name}.shape", "I64", (len(shape),)))
    with vector_writer(destination, SparseVector.kind, entries) as writer:
        for spec in writer.specs:
            name, _, part = spec.name.rpartition(".")
            if part == "shape":
                sizes = torch.tensor(source.shape(name), dtype=torch.int64)
                writer.write(to_bytes(sizes))
                continue
            phi = source.block(name, 0, math.prod(source.shape(name)))
            require_storable(name, phi)
            # A stable sort, as topk chooses among equals as it likes; the places rise again.
            order = phi.abs().sort(descending=True, stable=True).indices
            places = order[: spec.elements].sort().values
            values = phi[places].to(TORCH_DTYPES[dtype])
            writer.write(to_bytes(values if part == "values" else places.to(torch.int32)))
        return WrittenFile(writer.finish(), writer.size)


def _check(stored: StoredVector) -> tuple[str, ...]:
    """Return the names of the weights, when each has values, places and a shape."""
    names = stored.weights(("values", "places", "shape"), "values, places and a shape")
    dtypes = {stored.specs[f"{name}.values"].dtype for name in names}
    for name in names:
        values, places, shape = (
            stored.specs[f"{name}.{part}"] for part in ("values", "places", "shape")
        )
        fit = values.shape == places.shape and len(values.shape) == len(shape.shape) == 1
        typed = values.dtype in _VALUES and (places.dtype, shape.dtype) == ("I32", "I64")
        if not fit or not typed or len(dtypes) != 1:
            raise VectorError(
                f"Values and places of {name!r} in {stored.label} do not fit: {values.dtype} "
                f"{list(values.shape)} and {places.dtype} {list(places.shape)}. "
                "Restore it from a backup."
            )
    return names
