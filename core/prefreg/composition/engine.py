"""The arithmetic of a composition: float32 sums in a fixed order, and one rounding at the end.

Every step is a separate operation on whole tensors, so nothing is fused: the same bits come out
for any size of block, number of threads and device.
"""

from collections.abc import Iterable, Sequence

import torch

from prefreg.composition.eta import rounded_eta
from prefreg.composition.layout import output_dtype
from prefreg.composition.plan import Plan, opened
from prefreg.errors import BaseModelError, VectorError
from prefreg.vectors.dense import parse_dtype
from prefreg.vectors.tensors import TORCH_DTYPES, is_finite, read_tensor


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


def compose_state(plan: Plan, *, dtype: str | None = None) -> dict[str, torch.Tensor]:
    """Return every tensor of a composition by its on-disk name, in `dtype` or the base's own."""
    wanted = parse_dtype(dtype) if dtype else None
    state = {}
    with opened(plan) as open_plan:
        for name, stored in plan.base.checkpoint.tensors.items():
            terms = open_plan.terms_of(stored)
            base = read_tensor(stored)
            addends: list[torch.Tensor] = []
            if terms:
                phis = [term.block(0, stored.spec.elements) for term in terms]
                combine = open_plan.combine(stored, terms)
                addends = [part.reshape(base.shape) for part in combine(0, phis)]
            state[name] = add_up(base, addends, TORCH_DTYPES[output_dtype(stored, wanted)])
            if terms:
                require_finite(name, state[name], base)
    return state
