"""What is asked of whatever measures compositions and vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from prefreg.errors import UsageError
from prefreg.plain_yaml import read_assignments
from prefreg.terms import Term, format_eta
from prefreg.training.axis_request import AxisRequest

FURTHEST = 8.0

By = Literal["effect", "kl"]
Aligner = Literal["plain", "gradient-sign"]
Split = Literal["test", "dev"]


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """How compositions are measured; every default is the command line's."""

    base: str | None = None
    """Base model.  [default: the one base that has every term]"""
    prompts: int = 400
    """At most so many prompts, and pairs of each axis."""
    seed: int = 0
    """Of the choice of prompts, and of the answers."""
    split: Split = "test"
    """Of the data of the base's world."""
    data: tuple[str, ...] = ()
    """Held-out pairs.  [default: those that the version's run held out]"""
    prompts_file: Path | None = None
    """Prompts to ask, one JSON object a line.  [default: those of the pairs]"""
    max_new_tokens: int = 96
    """Of each answer."""
    template_options: Sequence[str] | Mapping[str, object] = ()
    """What the chat template is told, as in enable_thinking=false.
    [default: what it was told in training]"""
    at: datetime | None = None
    """As it was at that moment: versions and aliases are looked up as of then."""
    axes: tuple[str, ...] = ()
    """Axes to score, as in a,b.  [default: the terms']"""
    retention: tuple[str, ...] = ()
    """Multiple-choice questions, or what the bundled model shall remember."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval, as in piqa,openbookqa."""
    task_limit: int | None = None
    """Documents of each task."""
    task_path: Path | None = None
    """A folder of further tasks."""
    reward_models: tuple[str, ...] = ()
    """A sequence classifier that scores answers: a folder or a hub id."""
    judge: str | None = None
    """An endpoint of OpenAI's protocol."""
    judge_model: str = "default"
    """The name of the judge's model."""
    judge_timeout: float = 60.0
    """Seconds for each question."""

    def __post_init__(self) -> None:
        for name in ("prompts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def asked_options(self) -> dict[str, Any] | None:
        """What the chat template shall be told; None where nobody said."""
        return read_assignments(self.template_options) or None

    def sampling(self) -> dict[str, Any]:
        """Return what decides the draws of the answers; temperature is 1, as KL is under π_η."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": 1.0, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a dial is looked at, and how finely."""

    limit: float = 4.0
    """Look no further than this, ±."""
    step: float = 0.5
    """Steps outwards."""

    def __post_init__(self) -> None:
        if not 0 < self.step <= self.limit <= 64:
            raise UsageError(
                f"A range is sought in steps of up to the limit, at most 64: got step {self.step} "
                f"and limit {self.limit}."
            )


@dataclass(frozen=True, slots=True)
class Calibrating:
    """What one calibrated unit shall be."""

    by: By = "effect"
    """The effect on the axis's own metric, or nats of KL per answer."""
    target: float = 1.0
    """What one calibrated unit is worth."""
    furthest: float = FURTHEST
    """Look no further, ±."""

    def __post_init__(self) -> None:
        for name in ("target", "furthest"):
            if not 0 < getattr(self, name) < 1e6:
                raise UsageError(f"{name} must be a number above 0, got {getattr(self, name)}.")

    @property
    def goal(self) -> str:
        """What coefficients calibrated alike have in common."""
        nats = "nat" if self.target == 1 else "nats"
        unit = "of effect" if self.by == "effect" else f"{nats} of KL per answer"
        return f"{format_eta(self.target)} {unit}"


@dataclass(frozen=True, slots=True)
class Comparing:
    """How subspaces are compared."""

    rank: int = 8
    """Directions per weight."""
    draws: int = 200
    """Draws of random subspaces, which say what is chance."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        for name in ("rank", "draws"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True, slots=True)
class InterferenceRequest:
    """Which vectors are compared in the weights; every default is the command line's."""

    terms: tuple[Term, ...] = ()
    """If empty, the newest version of every axis on the base, each at 1."""
    base: str | None = None
    """Base model.  [default: the one base that has every term]"""
    comparing: Comparing = field(default_factory=Comparing)
    """How subspaces are compared."""
    at: datetime | None = None
    """As it was at that moment: versions and aliases are looked up as of then."""


@dataclass(frozen=True, slots=True)
class ConsistencyRequest:
    """Which runs are compared; every default is the command line's."""

    axis: AxisRequest
    """How the axis is trained; its own seed means nothing here."""
    seeds: Sequence[int]
    """As in 0,1,2 or 0-7."""
    same_pairs: bool = False
    """Train every seed on the pairs of the first one."""
    halves: int = 0
    """Cut the pairs into two halves N times, and train both."""
    null: int = 0
    """Train N times on labels of which a random half is switched."""
    scratch: Path = Path("consistency.db")
    """Registry for what has to be trained."""
    store: bool = False
    """Store missing seeds in the registry itself."""

    def __post_init__(self) -> None:
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(
                f"--seeds {','.join(map(str, self.seeds))}: give two or more different seeds."
            )


@dataclass(frozen=True, slots=True)
class CompressionRequest:
    """What is to be made smaller, and in which one way."""

    axis: str
    """The axis of the version."""
    reference: str | None = None
    """Its number or an alias of it; the newest version if absent."""
    dtype: str | None = None
    """Store every number in bfloat16."""
    int8: bool = False
    """Store every number in 8 bits, with a scale a row."""
    topk: float | None = None
    """Keep this share of each weight: .1."""
    rank: int | None = None
    """Keep matrices at this rank, drop the rest."""
    promote: bool = False
    """The axis's name means the smaller form from now on; else the form is named by its number."""
    note: str | None = None
    """A line to remember the version by."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Which answers are scored by which axis; every default is the command line's."""

    axis: str
    """The axis that judges."""
    file: Path
    """Rows with a prompt and answers, or of preference pairs."""
    reference: str | None = None
    """A version of the axis, by its number or an alias; the newest if absent."""
    base: str | None = None
    """Base model.  [default: the one that the axis has a version on]"""
    plus: str | None = None
    """The trained positive pole: say too how far the ranking is that of the poles."""
    minus: str | None = None
    """The trained negative pole."""
    template_options: Sequence[str] | Mapping[str, object] = ()
    """What the chat template is told, as in enable_thinking=false.
    [default: what it was told in training]"""
    at: datetime | None = None
    """As it was at that moment: versions and aliases are looked up as of then."""

    def __post_init__(self) -> None:
        if (self.plus is None) != (self.minus is None):
            raise UsageError("A ranking is that of two poles: give both --plus and --minus.")

    @property
    def asked_options(self) -> dict[str, Any] | None:
        """What the chat template shall be told; None where nobody said."""
        return read_assignments(self.template_options) or None


@dataclass(frozen=True, slots=True)
class TransportRequest:
    """Which version is moved to which base; every default is the command line's."""

    axis: str
    """The axis of the version."""
    to: str
    """The base to move it to: another fine-tune of the same architecture."""
    reference: str | None = None
    """Its number or an alias of it; the newest version if absent."""
    method: Aligner = "plain"
    """How: as it is, or only where it has the sign of the new base's gradient."""
    least: float = 0.5
    """Refuse it where less of its held-out margin is kept than this share."""
    pairs: int = 200
    """At most so many held-out pairs, and training pairs for gradients."""
    data: Path | None = None
    """A file of held-out pairs.  [default: those that the version's run held out]"""
    note: str | None = None
    """A line to remember the version by."""

    def __post_init__(self) -> None:
        if self.pairs < 1 or not 0 < self.least < 10:
            raise UsageError(
                f"A transport needs one pair or more, and a share above 0 to keep: got "
                f"{self.pairs} and {self.least}."
            )
