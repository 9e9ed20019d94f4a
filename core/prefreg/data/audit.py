"""What became of the rows: counts of everything dropped, and the length bias of the rest."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefreg.axes import PreferencePair, Text, plain_text


@dataclass(frozen=True, slots=True)
class Audit:
    """Counts of rows and pairs, and figures about the pairs that were kept."""

    rows: int
    """Rows that came in: `pairs` and the six counts of dropped ones add up to it."""
    ties: int
    empty: int
    """Pairs with an answer that says nothing."""
    identical: int
    """Pairs whose two answers are the same text."""
    duplicates: int
    """Exact repetitions of an earlier pair."""
    contradictions: int
    """Pairs that also occur in the opposite order; both are dropped, for both poles."""
    unbalanced: int
    """Pairs left out so that length predicts nothing; none without --length-balanced."""
    pairs: int
    train: int
    heldout: int
    shared_prompts: int
    """Prompts on both sides of the split; not zero only with a separate held-out set."""
    chosen_longer: float
    """Share of pairs whose chosen answer has more words: .5 has no length bias."""
    equal_length: float
    chosen_words: float
    rejected_words: float
    dropped_long: int = 0
    """Pairs dropped because they exceed the maximum length; known once tokenised."""
    truncated: int = 0
    """Pairs with an answer that was cut at the maximum length."""
    indistinct: int = 0
    """Pairs dropped because their answers are the same tokens, whole or as cut."""
    merged: int = 0
    """Pairs of plain text in which a token spans the end of the prompt."""

    def describe_long(self, max_length: int) -> str | None:
        """Say what became of pairs that were too long; None if none was."""
        if not self.truncated + self.dropped_long:
            return None
        return (
            f"Of {self.pairs} pairs, {self.truncated + self.dropped_long} are longer than "
            f"{max_length} tokens: {self.truncated} were cut, {self.dropped_long} left out."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures in a form that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How the lengths of the answers, in words, go with the preference."""

    chosen_longer: float
    equal_length: float
    chosen_words: float
    rejected_words: float


def measure_length(pairs: Sequence[PreferencePair]) -> LengthBias:
    """Compare the lengths of chosen and rejected answers."""
    lengths = [(word_count(pair.chosen), word_count(pair.rejected)) for pair in pairs]
    count = max(len(lengths), 1)
    return LengthBias(
        chosen_longer=sum(chosen > rejected for chosen, rejected in lengths) / count,
        equal_length=sum(chosen == rejected for chosen, rejected in lengths) / count,
        chosen_words=sum(chosen for chosen, _ in lengths) / count,
        rejected_words=sum(rejected for _, rejected in lengths) / count,
    )


def word_count(text: Text) -> int:
    """Count the words of a text, messages joined."""
    return len(plain_text(text).split())
