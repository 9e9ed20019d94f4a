"""The ways of combining vectors: the plain sum here, the others in one file each with its paper.

The plain sum is task arithmetic (Ilharco et al., Editing Models with Task Arithmetic, arXiv
2212.04089). It alone needs no torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefreg.axes.methods import Addends, Combine, Method, MethodInput
from prefreg.axes.plugins import load_methods
from prefreg.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import torch


BUILT_IN = ("linear", "ties", "dare", "dare_ties", "gram-schmidt", "shrink")


def method_names() -> list[str]:
    """Return the names of all methods, without what they are made with."""
    return [*BUILT_IN, *load_methods()[0]]


def find_method(name: str) -> Method:
    """Find a method by name: one of prefreg's, else one that a plugin brings."""
    if name == LINEAR.name:
        return LINEAR
    own = built_in()
    if name in own:
        return own[name]
    brought, broken = load_methods()
    if name in brought:
        return brought[name]
    known = sorted(own.keys() | brought.keys())
    also = f" Broken plugins: {', '.join(broken)}." if broken else ""
    raise UsageError(
        f"There is no method {name!r}. There are: {', '.join(known)}."
        f"{did_you_mean(name, known)}{also}"
    )


def built_in() -> dict[str, Method]:
    """Return the methods that come with prefreg, by name."""
    # All but the plain sum load torch.
    from prefreg.composition.methods.dare import DARE, DARE_TIES
    from prefreg.composition.methods.gram_schmidt import GRAM_SCHMIDT
    from prefreg.composition.methods.shrink import SHRINK
    from prefreg.composition.methods.ties import TIES

    methods = (LINEAR, TIES, DARE, DARE_TIES, GRAM_SCHMIDT, SHRINK)
    return {method.name: method for method in methods}


def _prepare(weight: MethodInput) -> Combine:
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
    prepare=_prepare,
)
