"""Compositions by their hash, and what was measured of them before."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.resolve import (
    Resolution,
    ResolvedTerm,
    only_base,
    resolve_on,
    resolve_stored,
    resolve_terms,
    weights_of,
)
from prefreg.config import cache_folder
from prefreg.errors import RegistryError, UsageError
from prefreg.files import Source, hash_bytes, write_whole
from prefreg.json_values import parse_json
from prefreg.registry import Access, BaseRecord, Store, VersionRecord
from prefreg.terms import Term, brief_eta
from prefreg.vectors import Vector, open_vector

FORMAT = 2
"""Raised when measuring changes, so that nothing older is taken for new."""


def digest(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


class EvaluationCache:
    """Results by the hash of a composition, the part that was measured and its protocol."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep results below `folder`, by default `PREFREG_CACHE/evaluations`."""
        self._folder = folder or cache_folder() / "evaluations"

    def read(self, composition: str, part: str, protocol: Mapping[str, Any]) -> Any | None:
        """Return a result; None where there is none, or a damaged file."""
        try:
            kept = parse_json(self._path(composition, part, protocol).read_bytes())
            result = kept["result"]
            return result if kept["sha256"] == _checksum(result) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, composition: str, part: str, protocol: Mapping[str, Any], result: Any) -> None:
        """Keep a result; a cache that cannot be written only costs time."""
        path = self._path(composition, part, protocol)
        kept = {"protocol": dict(protocol), "result": result, "sha256": _checksum(result)}
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(kept, ensure_ascii=True))

    def _path(self, composition: str, part: str, protocol: Mapping[str, Any]) -> Path:
        key = digest({"format": FORMAT, "part": part, "protocol": dict(protocol)})
        return self._folder / composition[:2] / composition / f"{part}-{key[:32]}.json"


def _checksum(result: Any) -> str:
    return hash_bytes(json.dumps(result).encode())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A composition on a base: versions with their coefficients, those at 0 left out."""

    base: BaseModel
    versions: tuple[tuple[float, VersionRecord], ...]

    @property
    def key(self) -> str:
        """Return the hash of everything that decides its weights and its tokens."""
        found = self.base.fingerprint
        terms = [[struct.pack("<f", eta).hex(), record.sha256] for eta, record in self.versions]
        return digest([found.weights, found.tokenizer, found.template, found.configuration, terms])

    @property
    def formula(self) -> str:
        """Return the recipe for people; the terms have the exact coefficients."""
        return write_formula((eta, str(record)) for eta, record in self.versions)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Return the terms with the versions that they meant."""
        return tuple(Term(record.axis, eta, str(record.number)) for eta, record in self.versions)


def write_formula(versions: Iterable[tuple[float, str]]) -> str:
    """Write a base with what is added to it for people."""
    parts = [f"{brief_eta(eta)}·{name}" for eta, name in versions]
    return " + ".join(["base", *parts]).replace("+ -", "− ")


def find_versions(
    access: Access, terms: Sequence[Term], base: str | None, at: datetime | None
) -> Resolution:
    """Find the base and the versions of terms; without terms, the base alone."""
    if base is not None and not terms:
        return Resolution(resolve_base(base), ())
    with access.reading() as store:
        return resolve_terms(store, terms, base, at=at)


def find_vectors(
    store: Store, terms: Sequence[Term], base: str | None, at: datetime | None = None
) -> tuple[BaseRecord, tuple[ResolvedTerm, ...]]:
    """Find the versions of terms, or the newest of every axis, and the base they belong to."""
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
def opened_vectors(
    found: Iterable[tuple[VersionRecord, Source]],
) -> Iterator[list[Vector]]:
    """Open vectors, each by its record and where its bytes are, for the length of a block."""
    with ExitStack() as stack:
        vectors = []
        for record, source in found:
            vector = open_vector(source, kind=record.kind, label=f"The vector of {record}")
            stack.callback(vector.close)
            vectors.append(vector)
        yield vectors
