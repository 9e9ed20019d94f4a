"""What is to be composed: a base, vectors with their coefficients, and the formula they make."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor, listed
from prefreg.checkpoints.names import TRAINABLE_DTYPES, tied_copies
from prefreg.composition.engine import rounded_eta
from prefreg.errors import UsageError, VectorError
from prefreg.registry.records import VersionRecord
from prefreg.terms import format_eta
from prefreg.vectors.opening import open_vector
from prefreg.vectors.sources import TensorSource


@dataclass(frozen=True, slots=True)
class PlannedTerm:
    """One version, its coefficient, and where its bytes are."""

    record: VersionRecord
    eta: float
    source: bytes | Path


@dataclass(frozen=True, slots=True)
class Plan:
    """A composition that can be carried out.

    Raises:
        UsageError: A version stands in it twice, or a coefficient does not fit float32.
        VectorError: A vector belongs to another base, unless `force_base` is set.
    """

    base: BaseModel
    terms: tuple[PlannedTerm, ...]
    """Sorted by axis and version, so that the order they were written in does not matter."""
    force_base: bool = False

    def __init__(
        self, base: BaseModel, terms: Sequence[PlannedTerm], *, force_base: bool = False
    ) -> None:
        ordered = tuple(sorted(terms, key=lambda term: (term.record.axis, term.record.number)))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "terms", ordered)
        object.__setattr__(self, "force_base", force_base)
        _check(self)

    @property
    def active(self) -> tuple[PlannedTerm, ...]:
        """The terms that change anything: those whose coefficient is not zero in float32."""
        return tuple(term for term in self.terms if rounded_eta(term.eta) != 0.0)

    @property
    def formula(self) -> str:
        """The formula in words, as in `base + 1·helpful@1 - 0.3·verbosity@1`."""
        return "base" + "".join(
            f" {'-' if term.eta < 0 else '+'} {format_eta(abs(term.eta))}·{label(term.record)}"
            for term in self.active
        )


@dataclass(frozen=True, slots=True)
class OpenTerm:
    """A term whose vector is open for reading."""

    label: str
    eta: float
    vector: TensorSource
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """A plan with its vectors open and checked against the base's tensors."""

    terms: tuple[OpenTerm, ...]
    copies: dict[str, str]
    """Stored copies of tied weights, and the names that vectors know them by."""

    def terms_of(self, tensor: StoredTensor) -> list[tuple[OpenTerm, str]]:
        """Return the terms that change a stored tensor, each with the vector's name for it."""
        name = tensor.spec.name
        original = self.copies.get(name, name)
        return [
            (term, name if name in term.names else original)
            for term in self.terms
            if name in term.names or original in term.names
        ]


@contextmanager
def opened(plan: Plan) -> Iterator[OpenPlan]:
    """Open the vectors of a plan and check that they fit its base.

    Raises:
        VectorError: A vector is damaged, or its names and shapes are not those of the base.
        BaseModelError: A weight file of the base cannot be read.
    """
    with ExitStack() as stack:
        terms = []
        for term in plan.active:
            name = label(term.record)
            vector = open_vector(term.source, kind=term.record.kind, label=f"The vector of {name}")
            stack.callback(vector.close)
            _require_fit(name, vector, plan.base.checkpoint)
            terms.append(OpenTerm(name, term.eta, vector, frozenset(vector.names)))
        yield OpenPlan(tuple(terms), tied_copies(plan.base.checkpoint))


def label(record: VersionRecord) -> str:
    """Return `axis@number`."""
    return f"{record.axis}@{record.number}"


def _check(plan: Plan) -> None:
    for before, after in zip(plan.terms, plan.terms[1:], strict=False):
        if label(before.record) == label(after.record):
            raise UsageError(
                f"{label(after.record)} stands in the composition twice. "
                "Write one term with the sum of the coefficients."
            )
    given = plan.base.fingerprint.weights
    for term in plan.terms:
        rounded_eta(term.eta)
        base = term.record.base
        if base.weights != given and not plan.force_base:
            raise VectorError(
                f"{label(term.record)} belongs to base {base.name} ({base.weights[:12]}), not to "
                f"{plan.base.name} ({given[:12]}). Compose it onto its own base, or force it."
            )


def _require_fit(name: str, vector: TensorSource, base: Checkpoint) -> None:
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
            f"{name} does not fit {base.path}: {'; '.join(problems)}. "
            "Compose it onto the base it was made for."
        )
