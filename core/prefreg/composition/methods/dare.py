"""DARE: drop numbers at random, and make up for them by the scale of the rest.

Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free
Lunch, arXiv 2311.03099. Which numbers are dropped depends on the seed, the vector, the weight's
name and the place in it alone.
"""

from collections.abc import Callable, Sequence

import torch

from prefreg.axes.methods import Addends, Combine, Method, MethodInput, MethodOption
from prefreg.composition.methods.ties import elected
from prefreg.composition.rounding import key_of, random_bits

DENSITY = MethodOption(0.5, "Share of each vector that is kept.", above=0.0, most=1.0)
SEED = MethodOption(0, "Seed of the random choice.", above=-1)


def dropping(weight: MethodInput) -> Callable[[int, Sequence[torch.Tensor]], list[torch.Tensor]]:
    """Return a function from blocks of every φ to η·φ/density where φ is kept, else 0."""
    density = float(weight.options["density"])
    kept_below = round(density * 2**32)
    keys = [
        key_of("dare", weight.options["seed"], term.vector, weight.name) for term in weight.terms
    ]
    etas = [term.eta for term in weight.terms]

    def drop(start: int, phis: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        products = []
        for eta, key, phi in zip(etas, keys, phis, strict=True):
            bits = random_bits(key, start, phi.numel()) >> 32
            kept = torch.from_numpy(bits < kept_below)
            products.append(torch.where(kept, phi / density, 0.0) * eta)
        return products

    return drop


def prepare(weight: MethodInput) -> Combine:
    """Return the sum of what was not dropped."""
    drop = dropping(weight)

    def combine(start: int, phis: Sequence[torch.Tensor]) -> Addends:
        return drop(start, phis)

    return combine


DARE = Method(
    name="dare",
    summary="Drop numbers at random and scale up the rest.",
    formula="Σ ηᵢ·φᵢ·mᵢ/{density}, mᵢ random, 1 for {density} of the numbers (seed {seed})",
    paper="arXiv 2311.03099",
    prepare=prepare,
    options={"density": DENSITY, "seed": SEED},
)


def prepare_elected(weight: MethodInput) -> Combine:
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
    prepare=prepare_elected,
    options={"density": DENSITY, "seed": SEED},
)
