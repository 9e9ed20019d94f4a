"""TIES: trim each vector to its largest numbers, elect a sign for each weight, add what agrees.

Yadav et al., TIES-Merging: Resolving Interference When Merging Models, arXiv 2306.01708. Trimming
is by |φ| and the election by Σ η·φ, so a negative η counts against; the result is the sum that
task arithmetic would take, not the paper's mean.
"""

from collections.abc import Sequence

import torch

from prefreg.composition.methods.election import elected, kept_magnitude
from prefreg.methods import Addends, Combine, Method, MethodInput, MethodOption

DENSITY = MethodOption(0.2, "Share of each vector that is kept.", above=0.0, most=1.0)


def prepare(weight: MethodInput) -> Combine:
    """Find how large the kept numbers are, and return the sum of those that agree."""
    density = float(weight.options["density"])
    limits = [kept_magnitude(term.read, weight.elements, density) for term in weight.terms]
    etas = [term.eta for term in weight.terms]

    def combine(_: int, phis: Sequence[torch.Tensor]) -> Addends:
        return elected(
            [
                torch.where(phi.abs() >= limit, phi, 0.0) * eta
                for eta, phi, limit in zip(etas, phis, limits, strict=True)
            ]
        )

    return combine


TIES = Method(
    name="ties",
    summary="Trim each vector to its largest numbers; add those of the sign that wins.",
    formula=(
        "Σ pᵢ·[sign pᵢ = sign Σ pⱼ], pᵢ = ηᵢ·φᵢ·[|φᵢ| among the largest {density} of its weight]"
    ),
    paper="arXiv 2306.01708",
    prepare=prepare,
    options={"density": DENSITY},
)
