"""The words of a composition: `axis[@version|@alias]:eta`, or `preset[@version]`."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prefreg.errors import UsageError

AXIS_NAME = re.compile(r"[a-z][a-z0-9_-]*")
ALIAS_NAME = re.compile(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
PRESET = re.compile(rf"{AXIS_NAME.pattern}(@0*[1-9]\d{{0,17}})?", re.ASCII)
_LONGEST_NUMBER = 18
_BRIEF = 8
TERM_FORM = "Write AXIS:ETA, as in helpful:1 or harmless@2:-0.5."


@dataclass(frozen=True, slots=True)
class Term:
    """One axis with its coefficient, or a preset, which stands for several."""

    axis: str
    """The axis or one of its aliases, or the preset, as written."""
    eta: float
    reference: str | None = None
    """A version number (all digits) or a version alias; the newest version if absent."""
    preset: bool = False
    """Whether a preset is named; its terms are found where the registry is open."""

    def __str__(self) -> str:
        at = f"@{self.reference}" if self.reference else ""
        if self.preset:
            return f"{self.axis}{at}"
        return f"{self.axis}{at}:{format_eta(self.eta)}"


def format_eta(eta: float) -> str:
    """Write a coefficient as briefly as reads back to the same number."""
    return repr(int(eta)) if eta == int(eta) and abs(eta) < 1e15 else repr(eta)


def brief_eta(eta: float) -> str:
    """Write a coefficient for people, a long one to four digits."""
    exact = format_eta(eta)
    return exact if len(exact) <= _BRIEF else f"{eta:.4g}"


def parse_reference(text: str) -> tuple[str, str | None]:
    """Split `axis[@reference]` into axis and reference."""
    axis, at, reference = text.partition("@")
    if not AXIS_NAME.fullmatch(axis):
        raise UsageError(f"{text!r} does not begin with an axis name. {TERM_FORM}")
    if at and not (
        (reference.isascii() and reference.isdigit()) or ALIAS_NAME.fullmatch(reference)
    ):
        raise UsageError(f"{reference!r} in {text!r} is neither a version number nor an alias.")
    if reference.isdigit() and len(reference.lstrip("0")) > _LONGEST_NUMBER:
        raise UsageError(f"{reference!r} in {text!r} is no version number: they count from 1.")
    return axis, reference or None


def parse_term(text: str) -> Term:
    """Read one term; a name without a coefficient is that of a preset.

    Raises:
        UsageError: The text is malformed or its coefficient is not a finite number.
    """
    if PRESET.fullmatch(text):
        name, _, number = text.partition("@")
        return Term(name, 1.0, number or None, preset=True)
    if text.count(":") != 1:
        raise UsageError(f"{text!r} is not a term. {TERM_FORM}")
    head, _, number = text.partition(":")
    axis, reference = parse_reference(head)
    if not NUMBER.fullmatch(number):
        raise UsageError(f"{number!r} in {text!r} is not a number. {TERM_FORM}")
    eta = float(number)
    if not math.isfinite(eta):
        raise UsageError(f"{number!r} in {text!r} is not finite. {TERM_FORM}")
    return Term(axis, eta, reference)


def parse_preset(text: str) -> tuple[str, int | None]:
    """Split `preset[@version]` into the name and the number."""
    if not PRESET.fullmatch(text):
        raise UsageError(f"{text!r} names no preset. Write NAME or NAME@NUMBER, as in calm@2.")
    name, _, number = text.partition("@")
    return name, int(number) if number else None


def parse_dial(text: str) -> Term:
    """Read a vector that is looked at: a term, or a version, which stands for itself at 1."""
    if ":" in text:
        return parse_term(text)
    axis, reference = parse_reference(text)
    return Term(axis, 1.0, reference)


def as_terms(terms: Mapping[str, float] | Iterable[str | Term]) -> tuple[Term, ...]:
    """Read terms from text, from `{"helpful@2": 1.0}`, or take them as they are."""
    if isinstance(terms, Mapping):
        return tuple(_make_term(name, eta) for name, eta in terms.items())
    if isinstance(terms, str):
        return (parse_term(terms),)
    return tuple(term if isinstance(term, Term) else parse_term(term) for term in terms)


def _make_term(name: str, eta: float) -> Term:
    axis, reference = parse_reference(name)
    if not math.isfinite(eta):
        raise UsageError(f"The coefficient {eta} of {name!r} is not finite.")
    return Term(axis, float(eta), reference)
