"""The settings of a sweep: `helpful=-1:1:0.5` for an axis that is turned, `verbosity:1` for one
that is not."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prefreg.errors import UsageError
from prefreg.terms import NUMBER, Term, parse_reference, parse_term

MOST_CELLS = 2000
_FORM = "Write AXIS=FROM:TO:STEP, as in helpful=-1:1:0.5, or AXIS=-1,0,1."


@dataclass(frozen=True, slots=True)
class Turned:
    """An axis with the coefficients it takes."""

    axis: str
    reference: str | None
    etas: tuple[float, ...]

    def at(self, eta: float) -> Term:
        """Return the axis at one coefficient."""
        return Term(self.axis, eta, self.reference)


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of the coefficients of the axes that are turned."""

    turned: tuple[Turned, ...]
    fixed: tuple[Term, ...]

    def __len__(self) -> int:
        return math.prod(len(each.etas) for each in self.turned)

    def cells(self) -> Iterator[tuple[tuple[float, ...], tuple[Term, ...]]]:
        """Yield the coefficients of the turned axes with all terms of the setting."""
        for etas in itertools.product(*(each.etas for each in self.turned)):
            terms = [each.at(eta) for each, eta in zip(self.turned, etas, strict=True)]
            yield etas, (*terms, *self.fixed)


def parse_grid(texts: Sequence[str]) -> Grid:
    """Read the axes that are turned and those that stay.

    Raises:
        UsageError: One is malformed, none is turned, or there are too many settings.
    """
    turned = tuple(_parse(text) for text in texts if "=" in text)
    fixed = tuple(parse_term(text) for text in texts if "=" not in text)
    if not turned:
        raise UsageError(f"A sweep needs an axis that is turned. {_FORM}")
    grid = Grid(turned, fixed)
    if len(grid) > MOST_CELLS:
        raise UsageError(
            f"{len(grid)} settings are more than the {MOST_CELLS} of a sweep: take larger steps."
        )
    return grid


def _parse(text: str) -> Turned:
    name, _, values = text.partition("=")
    axis, reference = parse_reference(name)
    if ":" in values:
        parts = values.split(":")
        if len(parts) != 3:
            raise UsageError(f"{text!r} has no range. {_FORM}")
        etas = _range(text, *(_number(part, text) for part in parts))
    else:
        etas = tuple(_number(part, text) for part in values.split(","))
    if len(set(etas)) < len(etas):
        raise UsageError(f"{text!r} names a coefficient twice.")
    return Turned(axis, reference, tuple(sorted(etas)))


def _range(text: str, start: float, stop: float, step: float) -> tuple[float, ...]:
    if step <= 0 or stop < start:
        raise UsageError(f"{text!r} goes nowhere: FROM is at most TO, and STEP above 0. {_FORM}")
    count = math.floor((stop - start) / step + 1e-9) + 1
    if count > MOST_CELLS:
        raise UsageError(f"{text!r} has {count} steps: take larger ones.")
    # A step of .1 is no binary fraction: without rounding, 0 would come out as 5.6e-17.
    return tuple(round(start + place * step, 12) + 0.0 for place in range(count))


def _number(part: str, text: str) -> float:
    if not NUMBER.fullmatch(part.strip()) or not math.isfinite(float(part)):
        raise UsageError(f"{part!r} in {text!r} is no finite number. {_FORM}")
    return float(part) + 0.0
