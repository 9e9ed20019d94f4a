"""Compositions by their hash, and the one loaded model that takes each of them in turn."""

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.evaluation.cache import digest
from prefreg.flows.access import Access
from prefreg.flows.resolve import Resolution, resolve_terms
from prefreg.registry import VersionRecord
from prefreg.terms import Term, format_eta

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefreg.flows.steering import VectorShelf
    from prefreg.serving import Dials


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
        return digest([found.weights, found.tokenizer, found.template, terms])

    @property
    def formula(self) -> str:
        """Return the recipe, as compose writes it."""
        parts = [f"{format_eta(eta)}·{record}" for eta, record in self.versions]
        return " + ".join(["base", *parts]).replace("+ -", "− ")

    @property
    def terms(self) -> tuple[Term, ...]:
        """Return the terms with the versions that they meant."""
        return tuple(Term(record.axis, eta, str(record.number)) for eta, record in self.versions)


def find_versions(
    access: Access, terms: Sequence[Term], base: str | None, at: datetime | None
) -> Resolution:
    """Find the base and the versions of terms; without terms, the base alone."""
    if base is not None and not terms:
        return Resolution(resolve_base(base), ())
    with access.reading() as store:
        return resolve_terms(store, terms, base, at=at)


class Bench:
    """The base loaded once, when something first has to be computed, with its dials."""

    def __init__(self, base: BaseModel, access: Access) -> None:
        """Name the base; nothing is loaded yet."""
        self.base = base
        self.seconds: dict[str, float] = {"loading": 0.0, "recomposing": 0.0}
        self._access = access
        self._dials: Dials | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._shelf: VectorShelf | None = None
        self._at: str | None = None

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Return the tokenizer of the base."""
        self._load()
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def dials(self) -> "Dials":
        """Return the dials of the loaded model."""
        self._load()
        assert self._dials is not None
        return self._dials

    def model(self, candidate: Candidate) -> "PreTrainedModel":
        """Return the model with the weights of a candidate, made from the pristine base."""
        dials = self.dials
        if self._at != candidate.key:
            assert self._shelf is not None
            vectors = self._shelf(candidate.terms)
            started = time.perf_counter()
            self._at = None
            dials.apply(vectors)
            self._at = candidate.key
            self.seconds["recomposing"] += time.perf_counter() - started
        return dials.model

    def _load(self) -> None:
        if self._dials is not None:
            return
        # What is cached is answered without torch, which takes seconds to import.
        started = time.perf_counter()
        from prefreg.flows.steering import VectorShelf, make_dials
        from prefreg.training.loading import load_model, load_tokenizer, on_gpu, quiet

        with quiet():
            model = on_gpu(load_model(self.base, "auto"))
            self._tokenizer = load_tokenizer(self.base)
        model.train(False)
        self._dials = make_dials(model, self.base)
        self._shelf = VectorShelf(self.base, self._access)
        self.seconds["loading"] = time.perf_counter() - started
