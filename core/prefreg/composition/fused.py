"""The sums of a composition on a GPU: one kernel a weight, which moves each number once.

Products and sums are rounded one by one in the order of `compose_tensor`, so its bits come out.
This needs Triton, which comes with torch for GPUs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_SIZE = 2048
"""Numbers of a block: with four warps, two loads of 16 bytes a thread from each that is added."""


class FusedSums:
    """Write sums into weights, and take note where one is not finite."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._spoilt: dict[torch.device, torch.Tensor] = {}

    def takes(self, weight: torch.Tensor, terms: int) -> bool:
        """Whether a weight can be written here, with so many terms."""
        return weight.is_cuda and weight.is_contiguous() and weight.dtype in _DTYPES

    def write(
        self, out: torch.Tensor, base: torch.Tensor, terms: Sequence[tuple[float, torch.Tensor]]
    ) -> None:
        """Write float32(base) + Σ ηᵢ·φᵢ into `out`, rounded once, without waiting for the GPU.

        η are numbers of float32; φ lie flat on the GPU of `out`, in any float dtype.
        """
        if out.device not in self._spoilt:
            self._spoilt[out.device] = torch.zeros(1, dtype=torch.int32, device=out.device)
        add_into(out, base, terms, self._spoilt[out.device])

    @property
    def spoilt(self) -> bool:
        """Whether anything that was written is not finite; waits for the GPUs."""
        return any(map(bool, self._spoilt.values()))


def add_into(
    out: torch.Tensor,
    base: torch.Tensor,
    terms: Sequence[tuple[float, torch.Tensor]],
    spoilt: torch.Tensor,
) -> None:
    """Run the kernel; `spoilt` becomes 1 where the result is not finite."""
    etas, phis = zip(*terms, strict=True)
    count = out.numel()
    with torch.cuda.device(out.device):
        # A product that is added without being rounded would give other bits than the CPU's.
        _kernel[(-(-count // _SIZE),)](
            out, base, phis, etas, spoilt, count, _SIZE, num_warps=4, enable_fp_fusion=False
        )


# Triton would compile other annotations.
def _add_into(out, base, phis, etas, spoilt, count, size: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = places < count
    total = tl.load(base + places, inside, other=0.0).to(tl.float32)
    for each in tl.static_range(len(phis)):
        phi = tl.load(phis[each] + places, inside, other=0.0).to(tl.float32)
        total += phi * etas[each]
    result = total.to(out.dtype.element_ty)
    tl.store(out + places, result, inside)
    # Infinity less itself is NaN, as NaN less anything, and that is unequal to 0.
    wide = result.to(tl.float32)
    tl.store(spoilt + places * 0, 1, wide - wide != 0)


_kernel: Any = triton.jit(_add_into)
