"""Shrink: singular directions that several vectors share are not counted once for each of them.

After Li et al., When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging, arXiv
2602.05536, with a rule that respects signed coefficients. The sum S = Σ ηᵢ·φᵢ of a weight has
singular values σ with directions u, v, to which the vectors contribute aᵢ = uᵀ(ηᵢ·φᵢ)v, which add
up to σ. Each σ becomes √Σ aᵢ² where that is less: what one vector alone contributes stays as it is,
what k vectors contribute alike shrinks to σ/√k.
"""

from collections.abc import Sequence

import torch

from prefreg.axes.methods import Addends, Combine, Method, MethodInput

# Squares of singular values this small beside the largest are rounding.
_TOLERANCE = 1e-14


def prepare(weight: MethodInput) -> Combine:
    """Compute the whole change of one weight; it is kept until its blocks are written."""
    if len(weight.terms) == 1:
        (term,) = weight.terms
        return lambda _, phis: [phis[0] * term.eta]
    # A weight of one dimension is one column, with a single direction.
    rows = weight.shape[0] if len(weight.shape) > 1 else weight.elements
    parts = [(term.read(0, weight.elements) * term.eta).reshape(rows, -1) for term in weight.terms]
    change = _shrunk(parts).flatten()

    def combine(start: int, phis: Sequence[torch.Tensor]) -> Addends:
        return [change[start : start + phis[0].numel()]]

    return combine


def _shrunk(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if parts[0].shape[0] < parts[0].shape[1]:
        return _shrunk([part.T for part in parts]).T.contiguous()
    total = parts[0].double()
    for part in parts[1:]:
        total = total + part
    squares, right = torch.linalg.eigh(total.T @ total)
    squares = squares.clamp(min=0.0)
    # aᵢ·σ = (S·v)ᵀ·pᵢ·v, so neither u nor a division is needed.
    images = total @ right
    shares = torch.stack([(images * (part.double() @ right)).sum(0) for part in parts])
    kept = torch.linalg.vector_norm(shares, dim=0) / squares
    real = squares > _TOLERANCE * squares.max()
    kept = torch.where(real, kept.clamp(max=1.0), 1.0)
    change: torch.Tensor = ((images * kept) @ right.T).float()
    return change


SHRINK = Method(
    name="shrink",
    summary="Singular directions that several vectors share are not counted for each of them.",
    formula="U·diag(min(σ, √Σ aᵢ²))·Vᵀ per weight, U·diag(σ)·Vᵀ = Σ ηᵢ·φᵢ, aᵢ = uᵀ(ηᵢ·φᵢ)v",
    paper="after arXiv 2602.05536",
    prepare=prepare,
)
