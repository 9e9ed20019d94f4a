"""How much of the requested change is left after the rounding to the output's dtype."""

from dataclasses import dataclass
from typing import Any

import torch

from prefreg.vectors.tensors import count_nonzero

FAITHFUL_GAIN = 0.95


@dataclass(frozen=True, slots=True)
class Survival:
    """What became of Δ = Σ ηᵢ·φᵢ in the written weights."""

    changed: float
    """Of the weights that were asked to change, the share that did."""
    gain: float
    """⟨Δ written, Δ requested⟩ / ‖Δ requested‖²; 1 where rounding cost nothing."""

    @property
    def faithful(self) -> bool:
        """Whether the gain is high enough to speak of the same composition."""
        return self.gain >= FAITHFUL_GAIN

    def to_json(self) -> dict[str, Any]:
        """Return the values for the recipe."""
        return {"changed": self.changed, "gain": self.gain}


class SurvivalMeter:
    """Sum up the survival of a composition, block by block."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._requested = 0
        self._changed = 0
        self._overlap = 0.0
        self._square = 0.0

    def add(
        self, terms: list[tuple[float, torch.Tensor]], base: torch.Tensor, result: torch.Tensor
    ) -> None:
        """Measure a block: `base` is what the output would hold without any term."""
        wanted = terms[0][1] * terms[0][0]
        for eta, phi in terms[1:]:
            wanted += phi * eta
        got = result.to(torch.float32) - base.to(torch.float32)
        self._requested += count_nonzero(wanted)
        self._changed += count_nonzero(got)
        # Products in float64: at an extreme coefficient the squares overflow float32.
        exact = wanted.to(torch.float64)
        self._overlap += float(torch.sum(got * exact))
        self._square += float(torch.sum(exact * exact))

    def result(self) -> Survival | None:
        """Return the survival, or None where no change was requested.

        The values are rounded to what the order of summation, which threads may change, leaves
        untouched: the recipe must be the same file every time.
        """
        if not self._square:
            return None
        return Survival(
            # Terms that cancel may still have rounded a weight on the way.
            changed=round(min(1.0, self._changed / self._requested), 6),
            gain=round(self._overlap / self._square, 6),
        )
