"""What is to be done to one weight."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import numpy

from prefreg.axes.methods import Combine
from prefreg.checkpoints.safetensors_file import read_into
from prefreg.composition.blocks.compiled import add_up
from prefreg.composition.layout import OutputTensor
from prefreg.composition.plan import TensorTerm
from prefreg.composition.survival import Tally
from prefreg.errors import BaseModelError
from prefreg.vectors.dense import BLOCK_ELEMENTS, DenseVector, unreadable

PLAIN = {"BF16": 2, "F32": 4}
"""The dtypes that are added up without torch, and the bytes of a number."""


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


class PlainBlocks:
    """Room for one thread to compose blocks of weights whose `is_plain` is true."""

    def __init__(self) -> None:
        """Take no memory before it is needed."""
        self._rooms = numpy.empty((0, BLOCK_ELEMENTS), numpy.uint32)

    def compose(
        self, work: WeightWork, source: int, start: int, stop: int, tally: Tally
    ) -> memoryview | None:
        """Return the bytes of the flat elements `start:stop`, valid until the next block.

        `source` is the base's open file. None where the sum is not finite, with nothing tallied.
        """
        spec = work.tensor.stored.spec
        vectors = [term.vector for term in work.terms if isinstance(term.vector, DenseVector)]
        dtypes = [spec.dtype, work.tensor.dtype, *(vector.dtype for vector in vectors)]
        if len(self._rooms) < len(dtypes):
            self._rooms = numpy.empty((len(dtypes), BLOCK_ELEMENTS), numpy.uint32)
        count = stop - start
        base, result, *rows = (
            room.data.cast("B")[: count * PLAIN[dtype]]
            for room, dtype in zip(self._rooms, dtypes, strict=False)
        )
        with work.reading():
            read_into(source, spec.offset + start * PLAIN[spec.dtype], base)
        for term, vector, row in zip(work.terms, vectors, rows, strict=True):
            vector.stored.read_bytes(row, term.name, start)
        narrow = numpy.array([dtype == "BF16" for dtype in dtypes])
        etas = numpy.array([term.eta for term in work.terms], numpy.float32)
        requested, changed, wanted, overlap, got = add_up(self._rooms, narrow, etas, count)
        if not math.isfinite(wanted + got):
            return None
        tally.add(Tally(requested, changed, overlap=overlap, wanted=wanted, got=got))
        return result
