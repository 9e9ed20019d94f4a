"""The arithmetic of a composition: float32 sums in a fixed order, and one rounding at the end.

Every step is a separate operation on whole tensors, so nothing is fused: the same bits come out
for any size of block, number of threads and device.
"""

import math
import struct
from collections.abc import Sequence

import torch

from prefreg.errors import BaseModelError, UsageError, VectorError
from prefreg.vectors.tensors import is_finite


def rounded_eta(eta: float) -> float:
    """Return the coefficient as float32 has it.

    Raises:
        UsageError: It is not finite there.
    """
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", eta))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise UsageError(f"The coefficient {eta!r} does not fit float32. Use a smaller one.")
    return rounded


def compose_tensor(
    base: torch.Tensor, terms: Sequence[tuple[float, torch.Tensor]], dtype: torch.dtype
) -> torch.Tensor:
    """Compose one tensor, or a part of one: float32(base) + Σ ηᵢ·φᵢ, rounded once to `dtype`.

    Terms are (η, φ) with φ in float32, added in the order given, which is that of the axes'
    names. Those of η = 0 are dropped, and with none left the base is returned, bit for bit where
    `dtype` is its own.

    Raises:
        UsageError: A coefficient does not fit float32.
    """
    active = [(eta, phi) for eta, phi in ((rounded_eta(eta), phi) for eta, phi in terms) if eta]
    if not active:
        return base.to(dtype)
    total = base.to(torch.float32, copy=True)
    for eta, phi in active:
        total += phi * eta
    return total.to(dtype)


def require_finite(name: str, result: torch.Tensor, base: torch.Tensor) -> None:
    """Check a composed tensor.

    Raises:
        BaseModelError: The base itself holds NaN or infinity there.
        VectorError: The sum does.
    """
    if is_finite(result):
        return
    if not is_finite(base):
        raise BaseModelError(
            f"{name!r} of the base holds NaN or infinity. Fetch the base again, or use another."
        )
    raise VectorError(
        f"{name!r} overflows {str(result.dtype).removeprefix('torch.')} in this composition. "
        "Use smaller coefficients or a wider dtype."
    )
