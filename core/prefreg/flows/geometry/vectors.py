"""Finding and opening the vectors that are looked at together."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime

from prefreg.errors import RegistryError, UsageError
from prefreg.flows.resolve import ResolvedTerm, only_base, resolve_on, resolve_stored, weights_of
from prefreg.registry import BaseRecord, Store
from prefreg.terms import Term, format_eta
from prefreg.vectors import Vector, open_vector


def find_vectors(
    store: Store, terms: Sequence[Term], base: str | None, at: datetime | None = None
) -> tuple[BaseRecord, tuple[ResolvedTerm, ...]]:
    """Find the versions of terms, or the newest of every axis, and the base they belong to.

    Raises:
        UsageError: A term is at 0, or an axis is named twice.
        RegistryError: A term has no version on the base, or several bases fit.
    """
    if idle := [str(term) for term in terms if not term.eta]:
        raise UsageError(f"{idle[0]} has no direction: give it a coefficient that is not 0.")
    if not terms:
        weights = weights_of(store, base) or only_base(store, terms, at).weights
        axes = dict.fromkeys(record.axis for record in store.summaries(base=weights))
        found = resolve_on(store, [Term(axis, 1.0) for axis in axes], weights, at)
        if not found:
            raise RegistryError(f"The registry has no vector on the base {base}.")
    else:
        found = resolve_stored(store, terms, base, at)
    return found[0].record.base, found


@contextmanager
def opened_vectors(store: Store, terms: Sequence[ResolvedTerm]) -> Iterator[list[Vector]]:
    """Open the vectors of terms for the length of a block.

    Raises:
        VectorError: A vector is missing or damaged.
    """
    with ExitStack() as stack:
        vectors = []
        for term in terms:
            record = term.record
            source = store.vector_source(record)
            vector = open_vector(source, kind=record.kind, label=f"The vector of {record}")
            stack.callback(vector.close)
            vectors.append(vector)
        yield vectors


def label(term: ResolvedTerm) -> str:
    """Write a vector with its coefficient, which is left out where it is 1."""
    return str(term.record) if term.eta == 1 else f"{format_eta(term.eta)}·{term.record}"
