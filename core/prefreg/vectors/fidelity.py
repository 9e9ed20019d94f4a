"""How much of a vector another one keeps: norms and angles, streamed and summed in float64."""

import math
from dataclasses import dataclass, field
from typing import Any

from prefreg.vectors.sources import TensorSource
from prefreg.vectors.tensors import blocks


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A vector beside what is kept of it."""

    norm: float
    """‖φ‖."""
    kept_norm: float
    error: float
    """‖kept − φ‖."""
    overlap: float
    """⟨kept, φ⟩."""
    norms: dict[str, float] = field(default_factory=dict)
    """‖φ‖ by tensor."""
    errors: dict[str, float] = field(default_factory=dict)
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
    errors: dict[str, float] = {}
    kept_square = overlap = 0.0
    present = frozenset(kept.names)
    for name in original.names:
        square = error = 0.0
        for start, stop in blocks(math.prod(original.shape(name))):
            phi = original.block(name, start, stop).double()
            square += float(phi @ phi)
            other = kept.block(name, start, stop).double() if name in present else None
            lost = phi if other is None else other - phi
            error += float(lost @ lost)
            if other is not None:
                kept_square += float(other @ other)
                overlap += float(other @ phi)
        norms[name], errors[name] = math.sqrt(square), math.sqrt(error)
    return Fidelity(
        norm=math.hypot(*norms.values()),
        kept_norm=math.sqrt(kept_square),
        error=math.hypot(*errors.values()),
        overlap=overlap,
        norms=norms,
        errors=errors,
    )
