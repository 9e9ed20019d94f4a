"""How much of a vector another one keeps: norms and angles, streamed and summed in float64."""

import math
from dataclasses import dataclass
from typing import Any

from prefreg.vectors.elements import blocks
from prefreg.vectors.sources import TensorSource


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A vector beside what is kept of it."""

    norm: float
    """‖φ‖."""
    kept_norm: float
    """‖kept‖."""
    error: float
    """‖kept − φ‖."""
    overlap: float
    """⟨kept, φ⟩."""
    norms: dict[str, float]
    """‖φ‖ by tensor."""
    kept_norms: dict[str, float]
    """‖kept‖ by tensor; those that are not kept are absent."""
    errors: dict[str, float]
    """‖kept − φ‖ by tensor."""

    @property
    def relative_error(self) -> float:
        """‖kept − φ‖ / ‖φ‖."""
        return self.error / self.norm if self.norm else 0.0

    @property
    def norm_ratio(self) -> float:
        """‖kept‖ / ‖φ‖."""
        return self.kept_norm / self.norm if self.norm else 0.0

    @property
    def cosine(self) -> float | None:
        """cos(kept, φ); None where one of them is zero."""
        lengths = self.norm * self.kept_norm
        return self.overlap / lengths if lengths else None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of the whole in a form that JSON can hold."""
        return {
            "relative_error": self.relative_error,
            "norm_ratio": self.norm_ratio,
            "cosine": self.cosine,
        }


def measure(original: TensorSource, kept: TensorSource) -> Fidelity:
    """Compare a vector with what is kept of it; a tensor that is not kept counts as zero.

    Raises:
        PrefregError: One of them cannot be read.
    """
    norms: dict[str, float] = {}
    kept_norms: dict[str, float] = {}
    errors: dict[str, float] = {}
    overlap = 0.0
    present = frozenset(kept.names)
    for name in original.names:
        square = kept_square = error = 0.0
        for start, stop in blocks(math.prod(original.shape(name))):
            phi = original.block(name, start, stop).double()
            square += float(phi @ phi)
            if name not in present:
                continue
            other = kept.block(name, start, stop).double()
            kept_square += float(other @ other)
            overlap += float(other @ phi)
            lost = other - phi
            error += float(lost @ lost)
        norms[name] = math.sqrt(square)
        errors[name] = math.sqrt(error if name in present else square)
        if name in present:
            kept_norms[name] = math.sqrt(kept_square)
    return Fidelity(
        norm=math.hypot(*norms.values()),
        kept_norm=math.hypot(*kept_norms.values()),
        error=math.hypot(*errors.values()),
        overlap=overlap,
        norms=norms,
        kept_norms=kept_norms,
        errors=errors,
    )
