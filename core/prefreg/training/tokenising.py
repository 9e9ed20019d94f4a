"""Both poles' pairs in tokens, position by position."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prefreg.axes.axis import Axis, PreferencePair
from prefreg.data.pairs import Audit, PairSet, switch_pairs
from prefreg.data.tokens import Policy, TokenPair, TokenSet, check_max_length, tokenize_pairs
from prefreg.errors import DataError
from prefreg.training.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCORED_WITHOUT_HELDOUT = 200
_TO_USE_TEMPLATE = "Write messages to use it, or, in a YAML axis, strings: turns."


@dataclass(frozen=True, slots=True)
class TokenisedPairs:
    """The pairs that a run trains on and those that its report is about."""

    positive: tuple[TokenPair, ...]
    """The training pairs, then the held-out ones."""
    negative: tuple[TokenPair, ...]
    train: slice
    report: slice
    split: str
    """What the report is about: `heldout`, or `train` where nothing is held out."""
    max_length: int
    renderings: tuple[str, ...]
    audit: Audit
    notes: tuple[str, ...]
    """What a run should say of them, a sentence each."""

    @property
    def plainly_switched(self) -> bool:
        """Whether every pair of the negative pole is the positive pole's, answers exchanged."""
        return self.negative == tuple(pair.switched() for pair in self.positive)


def tokenise(
    axis: Axis,
    pairs: PairSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    settings: Settings,
    context: int | None = None,
    vocabulary: int | None = None,
    policy: Policy = "truncate",
) -> TokenisedPairs:
    """Write the pairs of both poles as tokens; what one pole has to drop, the other drops too."""
    max_length = settings.max_length(context)
    check_max_length(max_length, context)
    both = (*pairs.train, *pairs.heldout)

    def write(texts: Sequence[PreferencePair]) -> TokenSet:
        return tokenize_pairs(
            texts, tokenizer, max_length=max_length, policy=policy, vocabulary=vocabulary
        )

    found = write(both)
    if axis.switch is PreferencePair.switched:
        kept = found.kept
        positive = found.pairs
        negative = tuple(pair.switched() for pair in positive)
    else:
        other = write(switch_pairs(axis, both))
        kept = tuple(sorted(set(found.kept) & set(other.kept)))
        positive, negative = found.select(kept), other.select(kept)
    trained = sum(position < len(pairs.train) for position in kept)
    if not trained:
        raise DataError(
            f"No training pair of axis {axis.name!r} fits into {max_length} tokens: "
            "raise --max-length or shorten the texts."
        )
    heldout = len(kept) - trained
    scored = slice(trained, len(kept)) if heldout else slice(0, _SCORED_WITHOUT_HELDOUT)
    audit = replace(
        pairs.audit,
        train=trained,
        heldout=heldout,
        dropped_long=len(both) - len(kept) - found.indistinct,
        truncated=found.truncated,
        indistinct=found.indistinct,
        merged=found.merged,
        verbatim=found.manner.verbatim,
        diverged=found.manner.diverged,
        incomplete=found.manner.incomplete,
    )
    return TokenisedPairs(
        positive=positive,
        negative=negative,
        train=slice(0, trained),
        report=scored,
        split="heldout" if heldout else "train",
        max_length=max_length,
        renderings=found.renderings,
        audit=audit,
        notes=(*audit.notes(max_length), *found.manner.notes("pairs", _TO_USE_TEMPLATE)),
    )
