"""Coefficients that differ between the weights of a model."""

import fnmatch
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefreg.errors import UsageError
from prefreg.terms import format_eta

_LAYERS = re.compile(r"(\d{1,6})(?:-(\d{1,6})?)?", re.ASCII)
_KEYS = ("layers", "modules")


@dataclass(frozen=True, slots=True)
class EtaRule:
    """A coefficient for some of the weights."""

    kind: str
    """`layers` or `modules`."""
    pattern: str
    """A range as in `0-7`, `5` or `8-`; or a pattern of names as in `*.mlp.*`."""
    eta: float

    def fits(self, name: str) -> bool:
        """Whether a weight, by its name on disk, is one of them."""
        if self.kind == "modules":
            return fnmatch.fnmatchcase(name, self.pattern)
        number = next((int(part) for part in name.split(".") if part.isdecimal()), None)
        match = _LAYERS.fullmatch(self.pattern)
        if number is None or match is None:
            return False
        first = int(match[1])
        last = first if "-" not in self.pattern else int(match[2]) if match[2] else number
        return first <= number <= last

    def __str__(self) -> str:
        return f"{format_eta(self.eta)} in {self.kind} {self.pattern}"

    def to_json(self) -> dict[str, Any]:
        """Return the rule as a recipe has it."""
        return {self.kind: self.pattern, "eta": self.eta}


def read_rule(content: Mapping[str, Any]) -> EtaRule:
    """Read `{"layers": "0-7", "eta": 0.5}` or `{"modules": "*.mlp.*", "eta": 0}`."""
    kinds = [key for key in _KEYS if key in content]
    if len(kinds) != 1 or content.keys() != {kinds[0], "eta"}:
        raise UsageError(f"{dict(content)} is no rule: it needs 'eta' and 'layers' or 'modules'.")
    kind, pattern = kinds[0], str(content[kinds[0]])
    if kind == "layers" and not _LAYERS.fullmatch(pattern):
        raise UsageError(f"{pattern!r} is no range of layers. Write it as 0-7, 5 or 8-.")
    return EtaRule(kind, pattern, float(content["eta"]))


def eta_of(name: str, eta: float, rules: Sequence[EtaRule]) -> float:
    """Return the coefficient of a weight: that of the last rule that fits it, else `eta`."""
    return next((rule.eta for rule in reversed(rules) if rule.fits(name)), eta)


def rounded_eta(eta: float) -> float:
    """Return the coefficient as float32 has it."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", eta))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise UsageError(f"The coefficient {eta!r} does not fit float32. Use a smaller one.")
    return rounded
