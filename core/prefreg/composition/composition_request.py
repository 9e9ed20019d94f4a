"""What is asked of a composition, and of an export."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from prefreg.composition.eta import EtaRule
from prefreg.terms import Term

Form = Literal["adapter", "checkpoint", "mergekit"]


@dataclass(frozen=True, slots=True)
class CompositionRequest:
    """What is asked of a composition; every default is the command line's."""

    terms: tuple[Term, ...]
    output: Path = Path("composed")
    """Folder to write; it appears whole or not at all."""
    base: str | None = None
    """Base model: a folder or a hub id.  [default: the one base that has every term]"""
    method: str = "linear"
    """How φs are combined: linear, ties, dare, dare_ties, gram-schmidt, shrink, or a plugin's."""
    options: tuple[tuple[str, object], ...] = ()
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
    """Base model: a folder or a hub id.  [default: the version's own]"""
    max_rank: int | None = None
    """Rank of an adapter; a dense vector needs one. Says the error."""
    sign: Literal["plus", "minus"] | None = None
    """Checkpoint of θ_base + φ or of θ_base − φ.  [default: plus]"""
    dtype: str | None = None
    """Dtype of a checkpoint.  [default: the base's]"""
    overwrite: bool = False
    """Replace a folder that prefreg wrote."""
