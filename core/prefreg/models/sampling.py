"""How answers are drawn."""

from dataclasses import dataclass
from math import inf

from prefreg.errors import UsageError
from prefreg.values import MAX_SEED, check_number


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int = 128
    """Of each answer."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        # Written so that a temperature that is not a number fits nowhere.
        if not (0 <= self.temperature < inf and 0 < self.top_p <= 1 and self.max_new_tokens >= 1):
            raise UsageError(
                "Sampling needs a finite temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, "
                f"got {self.temperature}, {self.top_p} and {self.max_new_tokens}."
            )
        check_number(self.seed, "seed", low=0, high=MAX_SEED)
