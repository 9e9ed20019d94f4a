"""What is to be composed: a base, vectors with their coefficients, and the formula they make."""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from prefreg.axes.isolation import off_stdout
from prefreg.axes.methods import Combine, Method, MethodInput, MethodTerm, Value
from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor
from prefreg.checkpoints.tensor_names import TRAINABLE_DTYPES, tied_copies
from prefreg.composition.composition_request import EtaRule, eta_of
from prefreg.composition.methods import LINEAR
from prefreg.errors import PrefregError, UsageError, VectorError, listed, reason
from prefreg.files import Source
from prefreg.registry.licences import Licences, licences_of
from prefreg.registry.records import VersionRecord
from prefreg.terms import format_eta
from prefreg.vectors import Vector, open_vector

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PlannedTerm:
    """One version, its coefficient, and where its bytes are."""

    record: VersionRecord
    eta: float
    source: Source
    rules: tuple[EtaRule, ...] = ()
    """Other coefficients for some of the weights; of two that fit, the later one."""

    @property
    def active(self) -> bool:
        """Whether it changes anything: whether a coefficient is not zero in float32."""
        etas = (self.eta, *(rule.eta for rule in self.rules))
        return any(rounded_eta(eta) != 0.0 for eta in etas)

    def __str__(self) -> str:
        rules = f" ({'; '.join(map(str, self.rules))})" if self.rules else ""
        return f"{format_eta(abs(self.eta))}·{self.record}{rules}"


@dataclass(frozen=True)
class Plan:
    """A composition that can be carried out."""

    base: BaseModel
    terms: tuple[PlannedTerm, ...]
    """Sorted by axis and version, so that the order they were written in does not matter."""
    force_base: bool = False
    method: Method = LINEAR
    options: Mapping[str, Value] = field(default_factory=dict)

    def __init__(
        self,
        base: BaseModel,
        terms: Sequence[PlannedTerm],
        *,
        force_base: bool = False,
        method: Method = LINEAR,
        options: Mapping[str, object] | None = None,
    ) -> None:
        ordered = tuple(sorted(terms, key=lambda term: (term.record.axis, term.record.number)))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "terms", ordered)
        object.__setattr__(self, "force_base", force_base)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "options", method.read_options(options or {}))
        _check(self)

    @property
    def active(self) -> tuple[PlannedTerm, ...]:
        """The terms that change anything."""
        return tuple(term for term in self.terms if term.active)

    @cached_property
    def licences(self) -> Licences:
        """The licences of the base and of the vectors that change it, read once."""
        return licences_of([term.record for term in self.active], self.base)

    @property
    def read_paths(self) -> list[Path]:
        """The folder and the files that are read, which nothing may replace meanwhile."""
        stored = (term.source for term in self.terms)
        return [self.base.checkpoint.path, *(each for each in stored if isinstance(each, Path))]

    @property
    def formula(self) -> str:
        """The formula in words, as in `base + 1·helpful@1 - 0.3·verbosity@1`."""
        signed = "".join(f" {'-' if term.eta < 0 else '+'} {term}" for term in self.active)
        if not signed or self.method is LINEAR:
            return f"base{signed}"
        terms = signed.removeprefix(" + ").strip()
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"base + {self.method.name}({terms}{options})"

    @property
    def rule(self) -> str:
        """What the method adds to the base, as its paper would write it."""
        return self.method.describe(self.options)


@dataclass(frozen=True, slots=True)
class OpenTerm:
    """A term whose vector is open for reading."""

    planned: PlannedTerm
    vector: Vector
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class TensorTerm:
    """A term on one tensor: the coefficient that holds there, and the vector's name for it."""

    record: VersionRecord
    eta: float
    vector: Vector
    name: str

    def block(self, start: int, stop: int) -> "torch.Tensor":
        """Return the flat elements `start:stop` of φ in float32."""
        return self.vector.block(self.name, start, stop)


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """A plan with its vectors open and checked against the base's tensors."""

    plan: Plan
    terms: tuple[OpenTerm, ...]
    copies: dict[str, str]
    """Stored copies of tied weights, and the names that vectors know them by."""

    def terms_of(self, tensor: StoredTensor) -> list[TensorTerm]:
        """Return the terms that change a stored tensor."""
        name = tensor.spec.name
        original = self.copies.get(name, name)
        found = []
        for term in self.terms:
            known = name if name in term.names else original
            # A tied copy must move with its original, whatever it is called.
            eta = rounded_eta(eta_of(original, term.planned.eta, term.planned.rules))
            if known in term.names and eta:
                found.append(TensorTerm(term.planned.record, eta, term.vector, known))
        return found

    def combine(self, tensor: StoredTensor, terms: Sequence[TensorTerm]) -> Combine:
        """Let the method look at the vectors of one tensor, and return what it adds to a block."""
        method = self.plan.method
        seen = [
            MethodTerm(term.record.axis, term.record.sha256, term.eta, term.block) for term in terms
        ]
        spec = tensor.spec
        name = self.copies.get(spec.name, spec.name)
        weight = MethodInput(name, spec.shape, tuple(seen), self.plan.options)
        with blamed_on(method, spec.name):
            return method.prepare(weight)


@contextmanager
def opened(plan: Plan) -> Iterator[OpenPlan]:
    """Open the vectors of a plan and check that they fit its base."""
    with ExitStack() as stack:
        terms = []
        for term in plan.active:
            record = term.record
            vector = open_vector(term.source, kind=record.kind, label=f"The vector of {record}")
            stack.callback(vector.close)
            _require_fit(record, vector, plan.base.checkpoint)
            terms.append(OpenTerm(term, vector, frozenset(vector.names)))
        yield OpenPlan(plan, tuple(terms), tied_copies(plan.base.checkpoint))


@contextmanager
def blamed_on(method: Method, name: str) -> Iterator[None]:
    """Make one clear error of whatever a method raises while it works on a tensor, off stdout."""
    try:
        with off_stdout():
            yield
    except (PrefregError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a method must not end the command line
        failed = f"The method {method.name} failed on {name!r}"
        raise VectorError(f"{failed}: {reason(error)}. Report it to its author.") from error


def rounded_eta(eta: float) -> float:
    """Return the coefficient as float32 has it."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", eta))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise UsageError(f"The coefficient {eta!r} does not fit float32. Use a smaller one.")
    return rounded


def _check(plan: Plan) -> None:
    for before, after in zip(plan.terms, plan.terms[1:], strict=False):
        if str(before.record) == str(after.record):
            raise UsageError(
                f"{after.record} stands in the composition twice. "
                "Write one term with the sum of the coefficients."
            )
    given = plan.base.fingerprint.weights
    for term in plan.terms:
        _ = term.active  # refuses a coefficient that float32 does not hold
        base = term.record.base
        if base.weights != given and not plan.force_base:
            raise VectorError(
                f"{term.record} belongs to base {base.name} ({base.weights[:12]}), not to "
                f"{plan.base.name} ({given[:12]}). Compose it onto its own base, or force it."
            )


def _require_fit(record: VersionRecord, vector: Vector, base: Checkpoint) -> None:
    unknown = [tensor for tensor in vector.names if tensor not in base.tensors]
    shared = [tensor for tensor in vector.names if tensor in base.tensors]
    specs = {tensor: base.tensors[tensor].spec for tensor in shared}
    reshaped = [
        f"{tensor} {list(vector.shape(tensor))} against {list(spec.shape)}"
        for tensor, spec in specs.items()
        if vector.shape(tensor) != spec.shape
    ]
    stored = [t for t, spec in specs.items() if spec.dtype not in TRAINABLE_DTYPES]
    problems = [
        f"{what} {listed(names)}"
        for what, names in (
            ("the base lacks", unknown),
            ("of different shapes are", reshaped),
            ("the base is quantised or holds integers in", stored),
        )
        if names
    ]
    if problems:
        raise VectorError(
            f"{record} does not fit {base.path}: {'; '.join(problems)}. "
            "Compose it onto the base it was made for."
        )
