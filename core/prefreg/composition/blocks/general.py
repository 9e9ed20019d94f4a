"""Blocks of any dtype, method, rounding and kind of vector, on any device: with torch."""

import math
from collections.abc import Sequence

import torch

from prefreg.composition.blocks.work import WeightWork
from prefreg.composition.blocks.workspace import Workspace
from prefreg.composition.engine import require_finite
from prefreg.composition.plan import TensorTerm, blamed_on, label
from prefreg.composition.rounding import Rounding
from prefreg.composition.survival import Tally
from prefreg.methods import Method
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.tensors import TORCH_DTYPES, read_elements, require_readable, to_bytes


class GeneralBlocks:
    """Room for one thread to compose blocks of up to `BLOCK_ELEMENTS` numbers in."""

    def __init__(self, method: Method, rounding: Rounding, device: str) -> None:
        """Take no memory before it is needed."""
        self._method = method
        self._rounding = rounding
        self._space = Workspace(torch.device(device))

    def compose(
        self, work: WeightWork, source: int, start: int, stop: int, tally: Tally
    ) -> memoryview:
        """Return the bytes of the flat elements `start:stop`, valid until the next block.

        `source` is the base's open file.

        Raises:
            VectorError: A vector cannot be read, or holds or makes numbers that are not finite.
            BaseModelError: The same of the base.
        """
        require_readable(work.tensor.stored)
        spec, dtype = work.tensor.stored.spec, TORCH_DTYPES[work.tensor.dtype]
        room = self._space.room(0, stop - start, TORCH_DTYPES[spec.dtype])
        with work.reading():
            base = read_elements(source, spec, start, stop, room)
        phis = [self._read(term, start, stop, place) for place, term in enumerate(work.terms, 2)]
        etas: Sequence[float] = [term.eta for term in work.terms]
        if work.combine is not None:
            combine = work.combine.result()
            with blamed_on(self._method, work.name):
                phis = list(combine(start, [phi.to(torch.float32) for phi in phis]))
            etas = [1.0] * len(phis)

        def round_into(room: torch.Tensor, total: torch.Tensor) -> None:
            self._rounding.round_into(room, total, work.name, start)

        result = self._space.compose(base, phis, etas, dtype, tally, round_into)
        # The squares of what was added are finite only where the result is.
        if not work.terms or not math.isfinite(tally.got):
            vectors = ((label(term.record), term.block(start, stop)) for term in work.terms)
            require_finite(work.name, result, base, vectors)
        return to_bytes(result)

    def _read(self, term: TensorTerm, start: int, stop: int, place: int) -> torch.Tensor:
        """Read a block of φ, of a dense vector in its own dtype."""
        if not isinstance(term.vector, DenseVector):
            return term.block(start, stop)
        room = self._space.room(place, stop - start, TORCH_DTYPES[term.vector.dtype])
        term.vector.stored.read_bytes(to_bytes(room), term.name, start)
        return room
