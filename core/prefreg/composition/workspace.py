"""The buffers that one thread composes in, made once: asking for memory costs more than adding."""

from collections.abc import Callable, Iterable

import numpy
import torch

from prefreg.composition.survival import Tally
from prefreg.vectors.tensors import BLOCK_ELEMENTS

_WIDEST = torch.float64.itemsize

# Between these, sums of squares in float32 neither overflow nor lose what is small.
_SAFE = (1e-25, 1e30)


WORKSPACE_BYTES = (4 * torch.float32.itemsize + 2 * _WIDEST + 1) * BLOCK_ELEMENTS
"""What one workspace takes."""


class Workspace:
    """Compose blocks of up to `BLOCK_ELEMENTS` numbers, and measure what rounding left of them."""

    def __init__(self, device: torch.device) -> None:
        """Take the memory."""
        self._wide = torch.empty(4, BLOCK_ELEMENTS, device=device)
        self._narrow = torch.empty(2, BLOCK_ELEMENTS * _WIDEST, dtype=torch.uint8)
        self._mask = numpy.empty(BLOCK_ELEMENTS, dtype=numpy.bool_)

    def base_room(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return space for a block of the base to be read into."""
        return self._narrow[0, : count * dtype.itemsize].view(dtype)

    def vector_room(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return space for a block of a vector, until the next one or the result takes it."""
        return self._narrow[1, : count * dtype.itemsize].view(dtype)

    def product(self, phi: torch.Tensor, eta: float) -> torch.Tensor:
        """Return fl(float32(η)·φ), until the next product takes its place."""
        return self._wide[3, : phi.numel()].copy_(phi).mul_(eta)

    def compose(
        self,
        base: torch.Tensor,
        addends: Iterable[torch.Tensor],
        dtype: torch.dtype,
        tally: Tally,
        round_into: Callable[[torch.Tensor, torch.Tensor], object] = torch.Tensor.copy_,
    ) -> torch.Tensor:
        """Add up as `engine.add_up` does, and enter into the tally what became of the addends.

        `base` is not changed; the result is valid until the next block. `round_into` is given the
        place of the result and the float32 sum.
        """
        before, total, asked = (self._wide[row, : base.numel()] for row in range(3))
        # A narrow dtype loses so much more than float32 that the sum stands for the request.
        narrow = dtype.itemsize < total.itemsize
        before.copy_(base)
        start = before
        for addend in addends:
            if not narrow:
                asked.add_(addend) if start is total else asked.copy_(addend)
            start = torch.add(start, addend.to(total.device), out=total)
        if start is before:
            return base.to(dtype)
        if narrow:
            torch.sub(total, before, out=asked)
        result = self.vector_room(base.numel(), dtype)
        round_into(result, total)
        left, unmoved = total.cpu().copy_(result), before.cpu()
        left -= unmoved if base.dtype == dtype else unmoved.copy_(base.to(dtype))
        self._measure(asked.cpu(), left, tally)
        return result

    def _measure(self, asked: torch.Tensor, left: torch.Tensor, tally: Tally) -> None:
        tally.requested += self._count_nonzero(asked)
        tally.changed += self._count_nonzero(left)
        wanted = float(torch.dot(asked, asked))
        got = float(torch.dot(left, left))
        if not (_SAFE[0] < wanted < _SAFE[1] and got < _SAFE[1]):
            asked, left = asked.to(torch.float64), left.to(torch.float64)
            wanted, got = float(torch.dot(asked, asked)), float(torch.dot(left, left))
        tally.wanted += wanted
        tally.got += got
        tally.overlap += float(torch.dot(asked, left))

    def _count_nonzero(self, numbers: torch.Tensor) -> int:
        mask = numpy.not_equal(numbers.numpy(), 0, out=self._mask[: numbers.numel()])
        return int(numpy.count_nonzero(mask))
