"""The plain sum of dense vectors, which is what most compositions are: without torch."""

import math

import numpy

from prefreg.checkpoints.safetensors_io import read_into
from prefreg.composition.blocks.compiled import add_up
from prefreg.composition.blocks.work import PLAIN, WeightWork
from prefreg.composition.survival import Tally
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.elements import BLOCK_ELEMENTS


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

        Raises:
            VectorError: A vector cannot be read.
            BaseModelError: The base cannot be read.
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
