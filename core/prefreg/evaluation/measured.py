"""What one composition did, answer by answer and pair by pair: what is cached, and what figures
are made of."""

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Answers:
    """Sampled answers to the prompts of a run, in their order."""

    texts: list[str]
    tokens: list[int]
    nats: list[float]
    """KL(π_η ‖ π_0) over the steps of each answer; all 0 for the base itself."""
    ended: list[bool]

    def as_dict(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """Read what `as_dict` made."""
        return cls(**kept)


@dataclass(frozen=True, slots=True)
class PairScores:
    """Log-probabilities of both answers of the held-out pairs of an axis."""

    kept: list[int]
    """Positions of the pairs that fit the context."""
    chosen: list[float]
    rejected: list[float]
    chosen_tokens: list[int]
    rejected_tokens: list[int]

    def as_dict(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """Read what `as_dict` made."""
        return cls(**kept)
