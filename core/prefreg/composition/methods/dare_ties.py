"""DARE, then the election of TIES: drop at random, then add what has the sign that wins.

Yu et al., arXiv 2311.03099, with Yadav et al., arXiv 2306.01708.
"""

from collections.abc import Sequence

import torch

from prefreg.composition.methods.dare import DENSITY, SEED, dropping
from prefreg.composition.methods.election import elected
from prefreg.methods import Addends, Combine, Method, MethodInput


def prepare(weight: MethodInput) -> Combine:
    """Return the sum of what was not dropped and agrees."""
    drop = dropping(weight)

    def combine(start: int, phis: Sequence[torch.Tensor]) -> Addends:
        return elected(drop(start, phis))

    return combine


DARE_TIES = Method(
    name="dare_ties",
    summary="Drop numbers at random; add those of the sign that wins.",
    formula=(
        "Σ pᵢ·[sign pᵢ = sign Σ pⱼ], "
        "pᵢ = ηᵢ·φᵢ·mᵢ/{density}, mᵢ random, 1 for {density} of the numbers (seed {seed})"
    ),
    paper="arXiv 2311.03099, 2306.01708",
    prepare=prepare,
    options={"density": DENSITY, "seed": SEED},
)
