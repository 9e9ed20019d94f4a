"""The arithmetic of a composition in torch: float32 sums in a fixed order, one rounding at the end.

Every step is a separate operation on whole tensors, so nothing is fused: the same bits come out
for any size of block, number of threads and device.

Every call of torch hands the interpreter's lock over and back, and where two threads want it that
costs as much as adding a hundred thousand numbers does. So blocks are large, one call serves all
vectors where it can, and a thread's buffers are made once.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy
import torch

from prefreg.axes.methods import Method
from prefreg.composition.layout import WeightWork
from prefreg.composition.plan import TensorTerm, blamed_on, rounded_eta
from prefreg.composition.rounding import Rounding, Tally
from prefreg.errors import BaseModelError, VectorError
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.stored import BLOCK_ELEMENTS
from prefreg.vectors.tensors import (
    TORCH_DTYPES,
    is_finite,
    read_elements,
    require_readable,
    to_bytes,
)

# Between these, sums of squares in float32 neither overflow nor lose what is small.
_SAFE = (1e-25, 1e30)


def compose_tensor(
    base: torch.Tensor, terms: Sequence[tuple[float, torch.Tensor]], dtype: torch.dtype
) -> torch.Tensor:
    """Compose one tensor, or a part of one: float32(base) + Σ ηᵢ·φᵢ, rounded once to `dtype`.

    Terms are (η, φ) with φ in float32, added in the order given, which is that of the axes'
    names. Those of η = 0 are dropped, and with none left the base is returned, bit for bit where
    `dtype` is its own.
    """
    return add_up(base, products(terms), dtype)


def products(terms: Iterable[tuple[float, torch.Tensor]]) -> list[torch.Tensor]:
    """Return η·φ in float32 for every term whose coefficient is not zero there."""
    rounded = ((rounded_eta(eta), phi) for eta, phi in terms)
    return [phi * eta for eta, phi in rounded if eta]


def add_up(base: torch.Tensor, addends: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Add float32 tensors to the base in the order given, and round once."""
    if not addends:
        return base.to(dtype)
    total = base.to(torch.float32, copy=True)
    for addend in addends:
        total += addend
    return total.to(dtype)


def require_finite(
    name: str,
    result: torch.Tensor,
    base: torch.Tensor,
    vectors: Iterable[tuple[str, torch.Tensor]] = (),
) -> None:
    """Check a composed tensor, and say whose fault it is; vectors are (label, φ)."""
    if is_finite(result):
        return
    if not is_finite(base):
        raise BaseModelError(
            f"{name!r} of the base holds NaN or infinity. Fetch the base again, or use another."
        )
    for label, phi in vectors:
        if not is_finite(phi):
            raise VectorError(f"The vector of {label} holds NaN or infinity in {name!r}.")
    raise VectorError(
        f"{name!r} overflows {str(result.dtype).removeprefix('torch.')} in this composition. "
        "Use smaller coefficients or a wider dtype."
    )


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
            vectors = [(str(term.record), term.block(start, stop)) for term in work.terms]
            if work.combine is not None:
                vectors += [(f"the method {self._method.name}", phi) for phi in phis]
            require_finite(work.name, result, base, vectors)
        return to_bytes(result)

    def _read(self, term: TensorTerm, start: int, stop: int, place: int) -> torch.Tensor:
        """Read a block of φ, of a dense vector in its own dtype."""
        if not isinstance(term.vector, DenseVector):
            return term.block(start, stop)
        room = self._space.room(place, stop - start, TORCH_DTYPES[term.vector.dtype])
        term.vector.stored.read_bytes(to_bytes(room), term.name, start)
        return room


class Workspace:
    """Compose blocks of up to `BLOCK_ELEMENTS` numbers, and measure what rounding left of them."""

    def __init__(self, device: torch.device) -> None:
        """Remember the device; memory is taken when it is first needed."""
        self._device = device
        self._rooms: dict[int, torch.Tensor] = {}
        self._rows: list[torch.Tensor] = []
        self._total = torch.empty(BLOCK_ELEMENTS, device=device)
        self._changes = torch.empty(2, BLOCK_ELEMENTS, device=device)

    def room(self, place: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return space for numbers as they are stored: base at 0, result at 1, vectors beyond."""
        needed = BLOCK_ELEMENTS * dtype.itemsize
        held = self._rooms.get(place)
        if held is None or len(held) < needed:
            held = self._rooms[place] = torch.empty(needed, dtype=torch.uint8)
        return held[: count * dtype.itemsize].view(dtype)

    def widened(self, numbers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Copy blocks of one size to float32 on the device, until the next call."""
        while len(self._rows) < len(numbers):
            self._rows.append(torch.empty(BLOCK_ELEMENTS, device=self._device))
        rows = [row[: len(block)] for row, block in zip(self._rows, numbers, strict=False)]
        torch._foreach_copy_(rows, list(numbers))
        return rows

    def compose(
        self,
        base: torch.Tensor,
        phis: Sequence[torch.Tensor],
        etas: Sequence[float],
        dtype: torch.dtype,
        tally: Tally,
        round_into: Callable[[torch.Tensor, torch.Tensor], object] = torch.Tensor.copy_,
    ) -> torch.Tensor:
        """Add up η·φ as `compose_tensor` does, and tally what became of the request.

        `base` is not changed; the result is valid until the next block. `round_into` is given the
        place of the result and the float32 sum.
        """
        if not phis:
            return base.to(dtype)
        before, *addends = self.widened([base, *phis])
        scaled = [index for index, eta in enumerate(etas) if eta != 1]
        if scaled:
            torch._foreach_mul_(
                [addends[index] for index in scaled], [etas[index] for index in scaled]
            )
        total, (asked, left) = self._total[: len(base)], self._changes[:, : len(base)]
        start = before
        for addend in addends:
            start = torch.add(start, addend, out=total)
        # A narrow dtype loses so much more than float32 that the sum stands for the request.
        if dtype.itemsize < total.itemsize:
            torch.sub(total, before, out=asked)
        else:
            asked.zero_()
            for addend in addends:
                asked += addend
        result = self.room(1, len(base), dtype)
        round_into(result, total)
        left.copy_(result)
        left -= before if base.dtype == dtype else base.to(dtype).to(left)
        self._measure(self._changes[:, : len(base)].cpu(), tally)
        return result

    def _measure(self, changes: torch.Tensor, tally: Tally) -> None:
        asked, left = changes
        tally.requested += _count_nonzero(asked)
        tally.changed += _count_nonzero(left)
        wanted, overlap = torch.mv(changes, asked).tolist()
        got = float(torch.dot(left, left))
        if not (_SAFE[0] < wanted < _SAFE[1] and got < _SAFE[1]):
            asked, left = asked.double(), left.double()
            products = torch.dot(asked, asked), torch.dot(asked, left), torch.dot(left, left)
            wanted, overlap, got = map(float, products)
        tally.wanted += wanted
        tally.overlap += overlap
        tally.got += got


def _count_nonzero(numbers: torch.Tensor) -> int:
    # Of the bits, which numpy counts five times as fast; differences of equal numbers are +0.
    return int(numpy.count_nonzero(numbers.view(torch.int32).numpy()))
