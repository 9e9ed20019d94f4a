"""What is asked of a composition, and of an export, with coefficients for parts of the weights."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from prefreg.errors import UsageError
from prefreg.terms import Term, format_eta
from prefreg.values import check_number

Form = Literal["adapter", "checkpoint", "mergekit"]

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


@dataclass(frozen=True, slots=True)
class CompositionRequest:
    """What is asked of a composition; every default is the command line's."""

    terms: tuple[Term, ...]
    """What is added to the base."""
    output: Path = Path("composed")
    """Folder to write; it appears whole or not at all."""
    base: str | None = None
    """Base model: a name, folder, GGUF file or hub id.  [default: the one that has every term]"""
    method: str = "linear"
    """How φs are combined: linear, ties, dare, dare_ties, gram-schmidt, shrink, or a plugin's."""
    options: tuple[tuple[str, object], ...] | Mapping[str, object] = ()
    """Settings of the method, by name."""
    dtype: str | None = None
    """Output dtype.  [default: the base's]"""
    rounding: str = "nearest"
    """To the nearest number, or at random (stochastic) so that the mean is right."""
    seed: int = 0
    """Seed of stochastic rounding."""
    form: str = "checkpoint"
    """Write a whole checkpoint, or one PEFT adapter."""
    max_rank: int | None = None
    """Rank of an adapter; says the error. Dense vectors need it."""
    overwrite: bool = False
    """Replace a folder that prefreg composed."""
    max_shard_size: str | None = None
    """Shard size, as in 5GB.  [default: base's]"""
    device: str = "cpu"
    """Where sums are taken: cpu, cuda, cuda:1."""
    durable: bool = False
    """Wait until every byte is on the disk."""
    hash_files: bool = False
    """Record the sha256 of every file."""
    verify: bool = False
    """Hash every vector again before it is used."""
    force_base: bool = False
    """Add vectors to a base they do not belong to."""
    mix_contrasts: bool = False
    """Add vectors of pairs and of positive poles alone."""
    rules: tuple[tuple[str, EtaRule], ...] = ()
    """Other coefficients of an axis for some of the weights."""
    at: datetime | None = None
    """As it was at that moment: versions and aliases are looked up as of then."""
    hashes: tuple[tuple[str, str], ...] = ()
    """What a recipe says of the vectors: axis and sha256."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be exported; every default is the command line's."""

    what: tuple[str, ...]
    """One `AXIS[@V]`, or for mergekit the terms of a composition."""
    form: Form
    """A PEFT adapter or a whole checkpoint of one version, or terms for mergekit to merge."""
    output: Path
    """Folder to write; it appears whole or not at all."""
    base: str | None = None
    """Base model: a name, folder, GGUF file or hub id.  [default: the version's own]"""
    max_rank: int | None = None
    """Rank of an adapter; a dense vector needs one. Says the error."""
    sign: Literal["plus", "minus"] | None = None
    """Checkpoint of θ_base + φ or of θ_base − φ.  [default: plus]"""
    dtype: str | None = None
    """Dtype of a checkpoint.  [default: the base's]"""
    overwrite: bool = False
    """Replace a folder that prefreg wrote."""


def read_rule(content: Mapping[str, Any]) -> EtaRule:
    """Read `{"layers": "0-7", "eta": 0.5}` or `{"modules": "*.mlp.*", "eta": 0}`."""
    kinds = [key for key in _KEYS if key in content]
    if len(kinds) != 1 or content.keys() != {kinds[0], "eta"}:
        raise UsageError(f"{dict(content)} is no rule: it needs 'eta' and 'layers' or 'modules'.")
    kind, pattern = kinds[0], str(content[kinds[0]])
    if kind == "layers" and not _LAYERS.fullmatch(pattern):
        raise UsageError(f"{pattern!r} is no range of layers. Write it as 0-7, 5 or 8-.")
    return EtaRule(kind, pattern, check_number(float(content["eta"]), "the eta of a rule"))


def eta_of(name: str, eta: float, rules: Sequence[EtaRule]) -> float:
    """Return the coefficient of a weight: that of the last rule that fits it, else `eta`."""
    return next((rule.eta for rule in reversed(rules) if rule.fits(name)), eta)
