"""The words of a composition: `axis[@version|@alias]:eta`, or `preset[@version]`.

For a running model a phase says where in an answer a term acts: `helpful:1[answer]` from its first
token on, not on the prompt; `helpful:1[20:]` from its token 20 on, counted from 0.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prefreg.errors import UsageError

AXIS_NAME = re.compile(r"[a-z][a-z0-9_-]*")
ALIAS_NAME = re.compile(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
PRESET = re.compile(rf"{AXIS_NAME.pattern}(@0*[1-9]\d{{0,17}})?", re.ASCII)
_PHASE = re.compile(r"(.*)\[(?:answer|([0-9]{1,9}):)\]", re.DOTALL)
_LONGEST_NUMBER = 18
_BRIEF = 8
TERM_FORM = "Write AXIS:ETA, as in helpful:1 or harmless@2:-0.5."
_PHASE_FORM = "Write [answer], or [N:] with a number of tokens, as in helpful:1[20:]."


@dataclass(frozen=True, slots=True)
class Term:
    """One axis with its coefficient, or a preset, which stands for several."""

    axis: str
    """The axis or one of its aliases, or the preset, as written."""
    eta: float
    reference: str | None = None
    """A version number (all digits) or a version alias; the newest version if absent."""
    since: int | None = None
    """The token of an answer, counted from 0, that the term acts from; None: on the prompt too."""
    preset: bool = False
    """Whether a preset is named; its terms are found where the registry is open."""

    def __str__(self) -> str:
        at = f"@{self.reference}" if self.reference else ""
        if self.preset:
            return f"{self.axis}{at}"
        return f"{self.axis}{at}:{format_eta(self.eta)}{self.phase}"

    @property
    def phase(self) -> str:
        """The phase as it is written; nothing where there is none."""
        if self.since is None:
            return ""
        return f"[{self.since}:]" if self.since else "[answer]"


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


def _split_phase(text: str) -> tuple[str, int | None]:
    """Take a phase from the end of a text."""
    if not text.endswith("]"):
        return text, None
    found = _PHASE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} does not end with a phase. {_PHASE_FORM}")
    return found[1], int(found[2] or 0)


def parse_term(text: str) -> Term:
    """Read one term; a name without a coefficient is that of a preset.

    Raises:
        UsageError: The text is malformed or its coefficient is not a finite number.
    """
    if PRESET.fullmatch(text):
        name, _, number = text.partition("@")
        return Term(name, 1.0, number or None, preset=True)
    written = text
    text, since = _split_phase(text)
    if text.count(":") != 1:
        raise UsageError(f"{written!r} is not a term. {TERM_FORM}")
    head, _, number = text.partition(":")
    axis, reference = parse_reference(head)
    if not NUMBER.fullmatch(number):
        raise UsageError(f"{number!r} in {text!r} is not a number. {TERM_FORM}")
    eta = float(number)
    if not math.isfinite(eta):
        raise UsageError(f"{number!r} in {text!r} is not finite. {TERM_FORM}")
    return Term(axis, eta, reference, since)


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
    """Read terms from text, from `{"helpful@2": 1.0}`, or take them as they are.

    In a mapping a phase stands after the name: `{"helpful@2[answer]": 1.0}`.
    """
    if isinstance(terms, Mapping):
        return tuple(_make_term(name, eta) for name, eta in terms.items())
    if isinstance(terms, str):
        return (parse_term(terms),)
    return tuple(term if isinstance(term, Term) else parse_term(term) for term in terms)


def _make_term(name: str, eta: float) -> Term:
    named, since = _split_phase(name)
    axis, reference = parse_reference(named)
    if not math.isfinite(eta):
        raise UsageError(f"The coefficient {eta} of {name!r} is not finite.")
    return Term(axis, float(eta), reference, since)
