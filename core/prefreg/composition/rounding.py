"""The one rounding at the end of a composition: to the nearest number, or at random."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prefreg.composition.counter import key_of, random_bits
from prefreg.errors import UsageError

if TYPE_CHECKING:
    import torch

NEAREST, STOCHASTIC = "nearest", "stochastic"
ROUNDINGS = (NEAREST, STOCHASTIC)


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
