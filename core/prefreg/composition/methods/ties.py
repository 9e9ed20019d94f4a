"""TIES: trim each vector to its largest numbers, elect a sign for each weight, add what agrees.

Yadav et al., TIES-Merging: Resolving Interference When Merging Models, arXiv 2306.01708. Trimming
is by |φ| and the election by Σ η·φ, so a negative η counts against; the result is the sum that
task arithmetic would take, not the paper's mean.
"""

from collections.abc import Callable, Sequence

import torch

from prefreg.axes.methods import Addends, Combine, Method, MethodInput, MethodOption
from prefreg.vectors.stored import blocks

_HALF = 1 << 16


def elected(products: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Keep of every η·φ the numbers that have the sign of their sum; where it is 0, none."""
    total = products[0]
    for product in products[1:]:
        total = total + product
    sign = torch.sign(total)
    return [torch.where(torch.sign(product) == sign, product, 0.0) for product in products]


def kept_magnitude(
    read: Callable[[int, int], torch.Tensor], elements: int, density: float
) -> float:
    """Return the smallest |φ| among the largest `density` of a weight; at least one is kept.

    The magnitudes are counted by the bits of their float32, whose order is theirs: first by the
    upper half, then by the lower half among those where it matters. So it is exact in two passes
    and in memory that does not grow.
    """
    wanted = max(1, int(density * elements))
    if wanted == elements:
        return 0.0
    upper, above = _place(read, elements, wanted, lambda bits: bits >> 16)
    lower, _ = _place(
        read,
        elements,
        wanted - above,
        lambda bits: bits[(bits >> 16) == upper] & (_HALF - 1),
    )
    found = torch.tensor([(upper << 16) | lower], dtype=torch.int32)
    return float(found.view(torch.float32))


def _place(
    read: Callable[[int, int], torch.Tensor],
    elements: int,
    wanted: int,
    part: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[int, int]:
    """Return the part that the wanted-th largest number has, and how many have a larger one."""
    counts = torch.zeros(_HALF, dtype=torch.int64)
    for start, stop in blocks(elements):
        bits = read(start, stop).abs().view(torch.int32)
        counts += torch.bincount(part(bits), minlength=_HALF)
    from_top = torch.cumsum(counts.flip(0), 0)
    rank = int(torch.searchsorted(from_top, wanted))
    return _HALF - 1 - rank, int(from_top[rank - 1]) if rank else 0


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
