"""Task arithmetic: the plain sum.

Ilharco et al., Editing Models with Task Arithmetic, arXiv 2212.04089.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefreg.axes.methods import Addends, Combine, Method, MethodInput

if TYPE_CHECKING:
    import torch


def prepare(weight: MethodInput) -> Combine:
    """Return η·φ of every vector."""
    etas = [term.eta for term in weight.terms]

    def combine(_: int, phis: Sequence["torch.Tensor"]) -> Addends:
        return [phi * eta for eta, phi in zip(etas, phis, strict=True)]

    return combine


LINEAR = Method(
    name="linear",
    summary="The plain sum.",
    formula="Σ ηᵢ·φᵢ",
    paper="arXiv 2212.04089",
    prepare=prepare,
)
