"""Several tests at once, and the rank correlation of a dial."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def holm(probabilities: Mapping[Name, float]) -> dict[Name, float]:
    """Adjust the probabilities of a family of tests (Holm 1979).

    Rejecting what stays below .05 then errs in one family of twenty, whatever their dependence.
    """
    adjusted: dict[Name, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(probabilities, key=lambda name: probabilities[name])):
        highest = max(highest, min(1.0, (len(probabilities) - place) * probabilities[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in probabilities}


def spearman(values: Sequence[float]) -> float:
    """Return the rank correlation with the order given; ties share their mean rank."""
    ranks = [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]
    middle = (len(values) - 1) / 2
    spread = sum((rank - middle) ** 2 for rank in ranks)
    steps = sum((index - middle) ** 2 for index in range(len(values)))
    both = sum((index - middle) * (rank - middle) for index, rank in enumerate(ranks))
    return float(both / (spread * steps) ** 0.5) if spread else 0.0
