"""What a method of combining preference vectors is."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefreg.errors import UsageError
from prefreg.terms import AXIS_NAME
from prefreg.values import MAX_SEED

if TYPE_CHECKING:
    import torch


Value = float | int | str
_PLACES = re.compile(r"\{(\w+)\}")
Addends = Iterable["torch.Tensor"]
Combine = Callable[[int, Sequence["torch.Tensor"]], Addends]
"""From the first element's place and the flat float32 φ of every term to what is added."""


@dataclass(frozen=True, slots=True)
class MethodOption:
    """A setting of a method: its default, which also tells its type, and its bounds."""

    default: Value
    summary: str
    above: float | None = None
    """The value must be greater than this."""
    most: float | None = None
    """The value must not be greater than this."""

    def read(self, name: str, value: object) -> Value:
        """Return the value in the option's type.

        Raises:
            UsageError: It is of another type or out of bounds.
        """
        if isinstance(self.default, str):
            return str(value)
        try:
            read = type(self.default)(str(value))
        except ValueError:
            read = math.nan
        low = self.above is None or read > self.above
        most = MAX_SEED if isinstance(self.default, int) else sys.float_info.max
        if abs(read) <= most and low and (self.most is None or read <= self.most):
            return read
        what = "a whole number" if isinstance(self.default, int) else "a number"
        bounds = [f" above {self.above:g}"] if self.above is not None else []
        bounds += [f" at most {self.most:g}"] if self.most is not None else []
        raise UsageError(f"{name}={value} is not {what}{' and'.join(bounds)}.")


@dataclass(frozen=True, slots=True)
class MethodTerm:
    """One vector of a combination, on one weight."""

    axis: str
    vector: str
    """The sha256 of the vector, for random numbers that depend on nothing else."""
    eta: float
    """As float32 has it; never 0."""
    read: Callable[[int, int], "torch.Tensor"]
    """Return the flat elements from start to stop of φ, in float32."""


@dataclass(frozen=True, slots=True)
class MethodInput:
    """One weight of the base with the vectors that change it, ordered by axis."""

    name: str
    shape: tuple[int, ...]
    terms: tuple[MethodTerm, ...]
    options: Mapping[str, Value]

    @property
    def elements(self) -> int:
        """How many numbers the weight holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Method:
    """A way of combining preference vectors into one change of the weights.

    `prepare` sees one weight at a time, may read its vectors, and returns a function that is
    called for every block of it, from several threads. It must respect the sign of every η:
    T(−η) = −T(η), and T(c·η) = c·T(η) for c > 0.
    """

    name: str
    summary: str
    formula: str
    """What is added to the base, with `{option}` where the value of an option goes."""
    paper: str
    prepare: Callable[[MethodInput], Combine]
    options: Mapping[str, MethodOption] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the name, the options and the formula.

        Raises:
            UsageError: The name is not made like an axis name, an option is none, or the formula
                shows one that is not there.
        """
        if not AXIS_NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is no name for a method. Use lower-case words.")
        for name, option in self.options.items():
            if not isinstance(option, MethodOption) or not isinstance(option.default, Value):
                raise UsageError(
                    f"The option {name!r} of {self.name} is no MethodOption of a value."
                )
        if unknown := sorted({*_PLACES.findall(self.formula)} - self.options.keys()):
            raise UsageError(f"The formula of {self.name} has no option {unknown[0]!r} to show.")

    def read_options(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return every option's value, the default where none is given.

        Raises:
            UsageError: An option is unknown, of another type or out of bounds.
        """
        unknown = sorted(given.keys() - self.options.keys())
        if unknown:
            known = ", ".join(self.options) or "none"
            raise UsageError(
                f"The method {self.name} has no option {unknown[0]!r}. It has: {known}."
            )
        return {
            name: option.read(name, given.get(name, option.default))
            for name, option in self.options.items()
        }

    def describe(self, options: Mapping[str, Value]) -> str:
        """Return the formula with the values of the options."""
        return _PLACES.sub(lambda match: str(options[match[1]]), self.formula)
