"""The one rounding at the end of a composition, and how much of the requested change it leaves.

Its random numbers depend on a key and a place alone, so that no order of work changes them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from prefreg.errors import UsageError
from prefreg.json_values import JsonFields

if TYPE_CHECKING:
    import torch

NEAREST, STOCHASTIC = "nearest", "stochastic"
ROUNDINGS = (NEAREST, STOCHASTIC)

FAITHFUL_GAIN = 0.95

_NAMED = 3

# Sums in float32 agree to more digits than these in whatever order a processor adds.
_DIGITS = 4

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Rounding:
    """How float32 sums become numbers of a narrower dtype.

    Stochastic rounding goes up or down with the probability that makes the mean right, so changes
    far below the step of the dtype survive in sum. Its random bits depend on the seed, the
    tensor's name and the place in it alone; a number that the dtype has is never changed.
    """

    kind: str = NEAREST
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.kind not in ROUNDINGS:
            raise UsageError(f"There is no rounding {self.kind!r}. Use {' or '.join(ROUNDINGS)}.")

    def round_into(
        self, room: "torch.Tensor", total: "torch.Tensor", name: str, start: int
    ) -> None:
        """Round the flat float32 numbers from place `start` of a tensor into `room`."""
        import torch

        if self.kind == NEAREST or room.dtype not in (torch.bfloat16, torch.float16):
            room.copy_(total)
            return
        bits = random_bits(key_of("rounding", self.seed, name), start, total.numel()) >> 48
        numbers = total.cpu().numpy()
        if room.dtype == torch.bfloat16:
            room.copy_(torch.from_numpy(_to_upper_half(numbers, bits)))
        else:
            room.copy_(torch.from_numpy(_to_half(numbers, bits)))


def key_of(*parts: object) -> int:
    """Return the key of a stream of random numbers, named by strings and numbers."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def random_bits(key: int, start: int, count: int) -> numpy.ndarray:
    """Return the 64-bit numbers at the places `start` to `start + count` of a stream.

    This is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose state at any place is known.
    """
    first = (key + (start + 1) * _STEP) & _MASK
    bits = numpy.arange(count, dtype=numpy.uint64)
    bits *= numpy.uint64(_STEP)
    bits += numpy.uint64(first)
    bits ^= bits >> numpy.uint64(30)
    bits *= numpy.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> numpy.uint64(27)
    bits *= numpy.uint64(0x94D049BB133111EB)
    bits ^= bits >> numpy.uint64(31)
    return bits


@dataclass(frozen=True, slots=True)
class Kept(JsonFields):
    """What became of Δ = Σ ηᵢ·φᵢ in some of the written weights."""

    changed: float
    """Of the weights that were asked to change, the share that did."""
    gain: float
    """⟨Δ written, Δ requested⟩ / ‖Δ requested‖²; 1 where rounding cost nothing."""
    norm_ratio: float
    """‖Δ written‖ / ‖Δ requested‖; above the gain by the noise that rounding added."""
    cosine: float
    """Between the two; it misleads where few weights changed, each by a large step."""


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


def _to_upper_half(numbers: numpy.ndarray, bits: numpy.ndarray) -> numpy.ndarray:
    # A bfloat16 is the upper half of a float32: a random number below one step carries over into
    # it as often as the lower half asks for.
    whole = numbers.view(numpy.uint32) + bits.astype(numpy.uint32)
    whole &= numpy.uint32(0xFFFF0000)
    return whole.view(numpy.float32)


def _to_half(numbers: numpy.ndarray, bits: numpy.ndarray) -> numpy.ndarray:
    with numpy.errstate(over="ignore", invalid="ignore"):
        near = numbers.astype(numpy.float16)
        off = numbers - near.astype(numpy.float32)
        away = numpy.where(off > 0, numpy.inf, -numpy.inf).astype(numpy.float16)
        other = numpy.nextafter(near, away)
        step = numpy.abs(other.astype(numpy.float32) - near.astype(numpy.float32))
        swap = bits.astype(numpy.float32) * numpy.float32(2.0**-16) * step < numpy.abs(off)
    result: numpy.ndarray = numpy.where(swap & (off != 0), other, near)
    return result
