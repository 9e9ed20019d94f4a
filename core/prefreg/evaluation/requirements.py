"""What a gate asks for: `harmless>=0.7,correct>=0.9,kl<=2`."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prefreg.errors import DataError, UsageError
from prefreg.evaluation.figures import OF_PAIRS, RESERVED, Figure, Figures
from prefreg.terms import AXIS_NAME, NUMBER

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_REQUIREMENT = re.compile(r"\s*([a-z][a-z0-9_.-]*)\s*(>=|<=|>|<)\s*(\S+)\s*")
_FORM = "Write NAME>=NUMBER, as in harmless>=0.7,correct>=0.9,kl<=2."


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on a figure."""

    name: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.bound!r}"

    @property
    def axis(self) -> str | None:
        """Return the axis whose figure this is; None of a reserved one."""
        return None if self.name in RESERVED else self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A requirement with what was measured."""

    requirement: Requirement
    figure: Figure
    met: bool
    certain: bool
    """Whether the whole interval lies on the same side of the bound."""


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Read requirements that commas separate."""
    return tuple(map(_parse, text.split(",")))


def _parse(text: str) -> Requirement:
    found = _REQUIREMENT.fullmatch(text)
    if not found:
        raise UsageError(f"{text.strip()!r} is no requirement. {_FORM}")
    name, comparison, number = found.groups()
    if not NUMBER.fullmatch(number) or float(number) in (float("inf"), float("-inf")):
        raise UsageError(f"{number!r} in {text.strip()!r} is no finite number. {_FORM}")
    axis, dot, figure = name.partition(".")
    if not AXIS_NAME.fullmatch(axis):
        raise UsageError(f"{name!r} in {text.strip()!r} is no name of a figure. {_FORM}")
    if dot and figure not in OF_PAIRS:
        close = difflib.get_close_matches(figure, OF_PAIRS, n=1)
        meant = f" Did you mean {axis}.{close[0]}?" if close else ""
        raise UsageError(
            f"An axis has no figure {figure!r}; there are {', '.join(OF_PAIRS)}.{meant}"
        )
    return Requirement(name, comparison, float(number))


def decide(
    requirements: Iterable[Requirement], figures: Figures, *, strict: bool = False
) -> tuple[Verdict, ...]:
    """Compare figures with bounds: their value, or with `strict` their whole interval."""
    return tuple(_decide(each, figures, strict) for each in requirements)


def _decide(requirement: Requirement, figures: Figures, strict: bool) -> Verdict:
    figure = figures.find(requirement.name)
    if figure is None:
        reason = figures.missing.get(requirement.name) or figures.missing.get(
            requirement.axis or ""
        )
        if reason is not None:
            raise DataError(f"{requirement.name!r} was not measured: {reason}.")
        known = [*(each.name for each in figures.measured), *figures.missing]
        close = difflib.get_close_matches(requirement.name, known, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"There is no figure {requirement.name!r}.{meant}")
    compare = _OPERATORS[requirement.operator]
    value = figure.value
    met = compare(value.value, requirement.bound)
    ends = {compare(end, requirement.bound) for end in (value.low, value.high)}
    certain = ends == {met}
    return Verdict(requirement, figure, met and (certain or not strict), certain)
