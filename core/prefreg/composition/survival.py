"""How much of the requested change is left after the rounding to the output's dtype."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FAITHFUL_GAIN = 0.95

_NAMED = 3

# Sums in float32 agree to more digits than these in whatever order a processor adds.
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of Δ = Σ ηᵢ·φᵢ in some of the written weights."""

    changed: float
    """Of the weights that were asked to change, the share that did."""
    gain: float
    """⟨Δ written, Δ requested⟩ / ‖Δ requested‖²; 1 where rounding cost nothing."""
    norm_ratio: float
    """‖Δ written‖ / ‖Δ requested‖; above the gain by the noise that rounding added."""
    cosine: float
    """Between the two; it misleads where few weights changed, each by a large step."""

    def to_json(self) -> dict[str, float]:
        """Return the values for the recipe."""
        return {
            "changed": self.changed,
            "gain": self.gain,
            "norm_ratio": self.norm_ratio,
            "cosine": self.cosine,
        }


@dataclass(frozen=True, slots=True)
class Survival:
    """What became of the requested change, in all and by group of modules."""

    total: Kept
    groups: Mapping[str, Kept]

    @property
    def gain(self) -> float:
        """The gain over all weights."""
        return self.total.gain

    @property
    def faithful(self) -> bool:
        """Whether the gain is high enough to speak of the same composition."""
        return self.gain >= FAITHFUL_GAIN

    @property
    def unfaithful(self) -> tuple[str, ...]:
        """The groups whose own gain is too low, those that kept the least first."""
        lost = [name for name, kept in self.groups.items() if kept.gain < FAITHFUL_GAIN]
        return tuple(sorted(lost, key=lambda name: self.groups[name].gain))

    @property
    def warning(self) -> str | None:
        """What to tell who composed, in one line; None where all was kept well enough."""
        if self.faithful and not self.unfaithful:
            return None
        named = [f"{self.groups[name].gain:.0%} in {name}" for name in self.unfaithful[:_NAMED]]
        more = len(self.unfaithful) - len(named)
        if more:
            named.append(f"little in {more} more")
        where = f" ({', '.join(named)})" if named else ""
        return (
            f"rounding kept {self.gain:.0%} of the requested change{where}; compose with "
            "--rounding stochastic, which keeps it on average, or with --dtype float32."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the values for the recipe."""
        groups = [{"modules": name, **kept.to_json()} for name, kept in self.groups.items()]
        return {**self.total.to_json(), "groups": groups}


@dataclass(slots=True)
class Tally:
    """The sums that the survival of some weights is made of."""

    requested: int = 0
    changed: int = 0
    overlap: float = 0.0
    wanted: float = 0.0
    got: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add the sums of other weights."""
        self.requested += other.requested
        self.changed += other.changed
        self.overlap += other.overlap
        self.wanted += other.wanted
        self.got += other.got

    def kept(self) -> Kept:
        """Return what the sums mean; something must have been requested."""
        both = (self.wanted * self.got) ** 0.5
        return Kept(
            # Terms that cancel may still have rounded a weight on the way.
            changed=round(min(1.0, self.changed / self.requested), _DIGITS),
            gain=round(self.overlap / self.wanted, _DIGITS),
            norm_ratio=round((self.got / self.wanted) ** 0.5, _DIGITS),
            cosine=round(self.overlap / both, _DIGITS) if both else 0.0,
        )


@dataclass(slots=True)
class SurvivalMeter:
    """Sum up the survival of a composition by groups of modules."""

    _groups: dict[str, Tally] = field(default_factory=dict)

    def add(self, name: str, tally: Tally) -> None:
        """Add the sums of a part of a tensor; in the same order every time."""
        self._groups.setdefault(group_of(name), Tally()).add(tally)

    def result(self) -> Survival | None:
        """Return the survival, or None where no change was requested."""
        moved = {name: tally for name, tally in sorted(self._groups.items()) if tally.wanted}
        if not moved:
            return None
        total = Tally()
        for tally in moved.values():
            total.add(tally)
        return Survival(total.kept(), {name: tally.kept() for name, tally in moved.items()})


def group_of(name: str) -> str:
    """Return the group of a tensor: its module, the same in every layer.

    As in `model.layers.*.mlp.up_proj` for `model.layers.7.mlp.up_proj.weight`.
    """
    parts = name.split(".")
    module = parts[:-1] or parts
    return ".".join("*" if part.isdigit() else part for part in module)
