"""Gram-Schmidt: each vector loses its part along those that are protected before it.

Other remedies treat all vectors alike (Task Singular Vectors, arXiv 2412.00081); here the order is
the user's. It is done weight by weight, so that the changes are at right angles in every one, with
coefficients from inner products in float64. A vector of η = 0 is absent, and protects nothing.
"""

from collections.abc import Sequence

import numpy
import torch

from prefreg.axes.methods import Addends, Combine, Method, MethodInput, MethodOption
from prefreg.errors import UsageError
from prefreg.vectors.stored import blocks

# Directions this much weaker than the strongest are rounding, not directions.
_RANK_TOLERANCE = 1e-10


def prepare(weight: MethodInput) -> Combine:
    """Measure the angles between the vectors, and return what each keeps."""
    order = _order(weight)
    products = _inner_products(weight)
    taken: dict[int, list[tuple[int, float]]] = {}
    for place, index in enumerate(order):
        earlier = order[:place]
        among = products[numpy.ix_(earlier, earlier)]
        along = products[earlier, index]
        parts = numpy.linalg.lstsq(among, along, rcond=_RANK_TOLERANCE)[0]
        taken[index] = [(other, float(c)) for other, c in zip(earlier, parts, strict=True) if c]

    def combine(_: int, phis: Sequence[torch.Tensor]) -> Addends:
        for index, term in enumerate(weight.terms):
            rest = phis[index]
            for other, part in taken[index]:
                rest = rest - phis[other] * part
            yield rest * term.eta

    return combine


def _order(weight: MethodInput) -> list[int]:
    protected = [axis.strip() for axis in str(weight.options["protect"]).split(",") if axis.strip()]
    if len(set(protected)) != len(protected):
        raise UsageError(f"{', '.join(protected)}: an axis is protected twice.")
    ranks = {axis: rank for rank, axis in enumerate(protected)}
    last = len(protected)
    return sorted(
        range(len(weight.terms)),
        key=lambda index: (ranks.get(weight.terms[index].axis, last), index),
    )


def _inner_products(weight: MethodInput) -> numpy.ndarray:
    total = torch.zeros(len(weight.terms), len(weight.terms), dtype=torch.float64)
    for start, stop in blocks(weight.elements):
        rows = torch.stack([term.read(start, stop) for term in weight.terms]).double()
        total += rows @ rows.T
    result: numpy.ndarray = total.numpy()
    return result


GRAM_SCHMIDT = Method(
    name="gram-schmidt",
    summary="Each vector loses its part along those that are protected before it.",
    formula="Σ ηᵢ·(φᵢ − its projection on the φ before it in the order {protect}, then by name)",
    paper="Gram 1883, Schmidt 1907",
    prepare=prepare,
    options={"protect": MethodOption("", "Axes in order; the first is kept whole.")},
)
