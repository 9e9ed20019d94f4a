"""A base model with dials: `model.set(helpful=1, harmless=0.5).generate("…")`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.evaluation.sampling import Sampling, sample_answers
from prefreg.serving.dials import Dials
from prefreg.terms import Term, as_terms
from prefreg.vectors.sources import TensorSource

Resolver = Callable[[Sequence[Term]], Sequence[tuple[float, TensorSource]]]
"""Find the vectors of terms on this model's base, in canonical order."""


class SteeredModel:
    """A loaded base model whose dials can be set again and again."""

    def __init__(self, dials: Dials, tokenizer: PreTrainedTokenizerBase, resolve: Resolver) -> None:
        """Put dials, a tokenizer and a way to find vectors together."""
        self._dials = dials
        self._resolve = resolve
        self.tokenizer = tokenizer
        self.terms: tuple[Term, ...] = ()

    @property
    def model(self) -> PreTrainedModel:
        """Return the transformers model with its present weights."""
        return self._dials.model

    def set(self, terms: Mapping[str, float] | Sequence[str | Term] = (), **etas: float) -> Self:
        """Set the dials; an axis that is not named is at 0.

        Axes are named as keywords (`helpful=1`) or, with a version, as a mapping or terms
        (`{"helpful@2": 1}`, `["helpful@2:1"]`).

        Raises:
            UsageError: An axis is malformed or named twice.
            RegistryError: An axis has no vector on this base.
        """
        wanted = (*as_terms(terms), *as_terms(etas))
        self._dials.apply(self._resolve(wanted))
        self.terms = wanted
        return self

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Answer one prompt; temperature 0 takes the likeliest token each time."""
        sampling = Sampling(max_new_tokens, temperature, top_p, seed)
        return self.generate_all([prompt], sampling)[0]

    def generate_all(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Answer every prompt once, in batches."""
        return sample_answers(self.model, self.tokenizer, prompts, sampling)
