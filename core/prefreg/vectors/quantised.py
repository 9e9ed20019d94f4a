"""Quantised vectors: eight bits a number, with one float32 scale for every row."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from prefreg.errors import VectorError
from prefreg.vectors.stored import BLOCK_ELEMENTS, StoredVector, Vector, WrittenFile, vector_writer
from prefreg.vectors.tensors import TensorSource, require_storable, to_bytes

LARGEST = 127  # −128 is left out, so that −φ has the negated numbers


class Int8Vector(Vector):
    """A quantised preference vector, read like a dense one: a tensor or a block at a time.

    A weight is stored as `NAME.q`, whole numbers from −127 to 127 in its own shape, and
    `NAME.scale`, what the numbers of each row are multiplied by; a row runs along the last
    dimension.
    """

    kind = "int8"
    form = "quantised"
    dtype = "I8"

    def __init__(self, stored: StoredVector) -> None:
        """Check the header; use `open`."""
        super().__init__(stored)
        self._names = _check(stored)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights, sorted."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return self.stored.specs[f"{name}.q"].shape

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the flat elements `start:stop` of a weight's φ in float32."""
        numbers = self.stored.read(f"{name}.q", start, stop).float()
        if not numbers.numel():
            return numbers
        _, columns = _rows(self.shape(name))
        first, last = start // columns, -(-stop // columns)
        scales = self.stored.read(f"{name}.scale", first, last).float().repeat_interleave(columns)
        return numbers * scales[start - first * columns : stop - first * columns]


def write_int8(source: TensorSource, destination: Path) -> WrittenFile:
    """Quantise a vector; no number moves by more than half of its row's scale."""
    shapes = {name: source.shape(name) for name in source.names}
    entries = [(f"{name}.q", "I8", shape) for name, shape in shapes.items()]
    entries += [(f"{name}.scale", "F32", (_rows(shape)[0],)) for name, shape in shapes.items()]
    scales: dict[str, torch.Tensor] = {}
    with vector_writer(destination, Int8Vector.kind, entries) as writer:
        # All scales come first in the file: wide types stand before narrow ones.
        for spec in writer.specs:
            name, _, part = spec.name.rpartition(".")
            if part == "scale":
                chunks = _chunks(source, name)
                found = [require_storable(name, rows).abs().amax(1) / LARGEST for rows in chunks]
                scales[name] = torch.cat(found) if found else torch.zeros(spec.shape)
                writer.write(to_bytes(scales[name]))
                continue
            row = 0
            for rows in _chunks(source, name):
                scale = scales[name][row : row + len(rows), None]
                row += len(rows)
                writer.write(to_bytes(_quantised(rows, scale)))
        return WrittenFile(writer.finish(), writer.size)


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many rows a weight has, and how long they are."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def _chunks(source: TensorSource, name: str) -> Iterator[torch.Tensor]:
    """Read whole rows, as many as make about a block."""
    rows, columns = _rows(source.shape(name))
    if not columns:
        return
    count = max(1, BLOCK_ELEMENTS // columns)
    for first in range(0, rows, count):
        last = min(first + count, rows)
        yield source.block(name, first * columns, last * columns).reshape(-1, columns)


def _quantised(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    # A row of zeros, or of numbers too small for a scale in float32, has the scale 0.
    steps = torch.where(scale > 0, rows / scale, 0.0)
    return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8)


def _check(stored: StoredVector) -> tuple[str, ...]:
    """Return the names of the weights, when each has its numbers and its scales."""
    names = stored.weights(("q", "scale"), "numbers and scales")
    for name in names:
        numbers, scale = stored.specs[f"{name}.q"], stored.specs[f"{name}.scale"]
        rows, _ = _rows(numbers.shape)
        if (numbers.dtype, scale.dtype, scale.shape) != ("I8", "F32", (rows,)):
            raise VectorError(
                f"The scales of {name!r} in {stored.label} do not fit: {numbers.dtype} "
                f"{list(numbers.shape)} and {scale.dtype} {list(scale.shape)}. "
                "Restore it from a backup."
            )
    return names
