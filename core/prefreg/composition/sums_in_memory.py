"""The sums of a composition in the memory of a CPU, where each number is moved once.

The bits are those of `compose_tensor`. What they are read from and written to must not change
before `spoilt` has said that all is written.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from prefreg.composition.compiled import MOST_TERMS, add_into
from prefreg.vectors.stored import BLOCK_ELEMENTS, blocks

_DTYPES = (torch.float32, torch.bfloat16)


class CompiledSums:
    """Write sums into weights in memory, each number moved once, by as many threads as torch."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._written: list[Future[bool]] = []
        self._is_spoilt = False

    def takes(self, weight: torch.Tensor, terms: int) -> bool:
        """Whether a weight can be written here, with so many terms."""
        return weight.is_contiguous() and weight.dtype in _DTYPES and terms <= MOST_TERMS

    def write(
        self, out: torch.Tensor, base: torch.Tensor, terms: Sequence[tuple[float, torch.Tensor]]
    ) -> None:
        """Write float32(base) + Σ ηᵢ·φᵢ into `out`, rounded once; `spoilt` waits for it.

        η are numbers of float32; φ are float32 or bfloat16.
        """
        etas, phis = zip(*terms, strict=True)
        if len({each.dtype for each in phis}) > 1:
            phis = tuple(each.float() for each in phis)
        rows = tuple(map(_as_numpy, phis))
        rows += (rows[0][:0],) * (MOST_TERMS - len(rows))
        asked = _as_numpy(out), _as_numpy(base), numpy.array(etas, numpy.float32)
        count = out.numel()
        if self._pool is None or count < BLOCK_ELEMENTS:
            self._is_spoilt |= add_into(*asked, 0, count, *rows)
            return
        for start, stop in blocks(count):
            self._written.append(self._pool.submit(add_into, *asked, start, stop, *rows))

    @property
    def spoilt(self) -> bool:
        """Whether anything that was written is not finite; waits for the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._is_spoilt |= any([each.result() for each in self._written])
        self._written = []
        return self._is_spoilt


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    flat = tensor.detach().reshape(-1)
    found: NDArray[Any] = (
        flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat
    ).numpy()
    return found
