"""From preference pairs to token ids: what the model is really trained on."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from prefreg.axes.axis import Axis, PreferencePair
from prefreg.axes.isolation import owned, switch_pairs
from prefreg.data.instructions import Instruction
from prefreg.data.pairs import Audit, PairSet
from prefreg.data.rendering import (
    Manner,
    close_answer,
    closing_ids,
    encode_answers,
    end_answer,
    end_id,
    lost_end,
    prompt_length,
)
from prefreg.data.templates import AnsweredPrompt, Rendering
from prefreg.errors import BaseModelError, DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Policy = Literal["truncate", "drop", "refuse"]
"""What becomes of texts beyond the maximum length."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A pair in tokens; arrays, as Python integers would take seven times the memory."""

    prompt_ids: "array[int]"
    chosen_ids: "array[int]"
    rejected_ids: "array[int]"

    def switched(self) -> "TokenPair":
        """Exchange chosen and rejected."""
        return TokenPair(self.prompt_ids, self.rejected_ids, self.chosen_ids)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Pairs in tokens, with what became of those that were too long."""

    pairs: tuple[TokenPair, ...]
    kept: tuple[int, ...]
    """For each token pair, the position of its preference pair."""
    renderings: tuple[Rendering, ...]
    """The distinct renderings that occur, sorted."""
    dropped_long: int
    truncated: int
    indistinct: int
    """Pairs dropped because their answers are the same tokens, whole or as cut."""
    merged: int
    """Pairs in which a token spans the end of the prompt."""
    manner: Manner

    def select(self, positions: Sequence[int]) -> tuple[TokenPair, ...]:
        """Return the token pairs made of the preference pairs at these positions."""
        by_position = dict(zip(self.kept, self.pairs, strict=True))
        return tuple(by_position[position] for position in positions)


class PreviewToken(NamedTuple):
    """One token of a preview."""

    role: Literal["prompt", "chosen", "rejected"]
    id: int
    text: str


def check_max_length(max_length: int, context: int | None) -> None:
    """Refuse a maximum length that the model has no positions for."""
    if max_length < 2:
        raise UsageError(f"A maximum length of {max_length} leaves no room for an answer.")
    if context is not None and max_length > context:
        raise UsageError(
            f"A maximum length of {max_length} is longer than the base model's context of "
            f"{context} tokens: lower --max-length."
        )


def tokenise_pairs(
    pairs: Sequence[PreferencePair],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    policy: Policy = "truncate",
    vocabulary: int | None = None,
) -> TokenSet:
    """Write pairs as tokens, none longer than `max_length` with its answer.

    A longer answer is cut at its end (`truncate`), or its pair dropped (`drop`), or all are
    refused (`refuse`); a pair whose prompt leaves no room for an answer, or whose cut answers are
    the same, is dropped otherwise.
    """
    eos = end_id(tokenizer)
    found: list[TokenPair] = []
    kept: list[int] = []
    renderings: set[Rendering] = set()
    dropped = truncated = indistinct = merged = beyond = 0
    manner = Manner.of(tokenizer)
    asked = (
        AnsweredPrompt(pair.prompt, (pair.chosen, pair.rejected), f"pair {number}", *pair.told)
        for number, pair in enumerate(pairs, start=1)
    )
    for position, (rendered, ids) in enumerate(encode_answers(asked, tokenizer)):
        start = prompt_length(rendered, ids, tokenizer)
        lost = lost_end(rendered, ids, start, tokenizer)
        manner.count(rendered, lost)
        merged += start < len(ids[0]) and not lost
        renderings.add(rendered.rendering)
        answers = [end_answer(rendered.rendering, answer[start:], eos) for answer in ids[1:]]
        if not all(answers):
            raise DataError(
                f"The chat template writes nothing of an answer of {rendered.name}: use a base "
                "whose template does, or leave it out of the data."
            )
        room = max_length - start
        long = any(len(answer) > room for answer in answers)
        beyond += long or room < 1
        if room < 1 or (long and policy == "drop"):
            dropped += 1
            continue
        chosen, rejected = (answer[:room] for answer in answers)
        if chosen == rejected:
            indistinct += 1
            continue
        truncated += long
        found.append(
            TokenPair(array("i", ids[0][:start]), array("i", chosen), array("i", rejected))
        )
        kept.append(position)
    if policy == "refuse":
        refuse_long("pairs", len(pairs), beyond, max_length)
    if pairs and not found:
        raise DataError(
            f"None of {len(pairs)} pairs is left at a maximum length of {max_length} tokens: "
            f"{dropped} are too long and {indistinct} have answers of the same tokens. "
            "Raise --max-length or shorten the texts."
        )
    check_vocabulary(
        (ids for pair in found for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)),
        vocabulary,
    )
    return TokenSet(
        pairs=tuple(found),
        kept=tuple(kept),
        renderings=tuple(sorted(renderings)),
        dropped_long=dropped,
        truncated=truncated,
        indistinct=indistinct,
        merged=merged,
        manner=manner,
    )


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


def tokenise_poles(
    axis: Axis,
    pairs: PairSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    context: int | None = None,
    vocabulary: int | None = None,
    policy: Policy = "truncate",
) -> TokenisedPairs:
    """Write the pairs of both poles as tokens; what one pole has to drop, the other drops too."""
    check_max_length(max_length, context)
    both = (*pairs.train, *pairs.heldout)

    def write(texts: Sequence[PreferencePair]) -> TokenSet:
        return tokenise_pairs(
            texts, tokenizer, max_length=max_length, policy=policy, vocabulary=vocabulary
        )

    found = write(both)
    if axis.switch is PreferencePair.switched:
        kept = found.kept
        positive = found.pairs
        negative = tuple(pair.switched() for pair in positive)
    else:
        switched = switch_pairs(axis, both)
        try:
            other = write(switched)
        except DataError as error:
            raise DataError(f"After the switch of {owned(axis)}: {error}") from error
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


def preview_tokens(
    pairs: Sequence[TokenPair], tokenizer: "PreTrainedTokenizerBase"
) -> list[list[PreviewToken]]:
    """Show pairs token by token."""
    previews = []
    for pair in pairs:
        tokens: list[PreviewToken] = []
        for role, ids in (
            ("prompt", pair.prompt_ids),
            ("chosen", pair.chosen_ids),
            ("rejected", pair.rejected_ids),
        ):
            texts = tokenizer.convert_ids_to_tokens(list(ids))
            tokens += [PreviewToken(role, *item) for item in zip(ids, texts, strict=True)]  # type: ignore[arg-type]
        previews.append(tokens)
    return previews


def refuse_long(kind: str, total: int, long: int, max_length: int) -> None:
    """Refuse texts of which some are too long."""
    if long:
        raise DataError(
            f"{long} of {total} {kind} are longer than {max_length} tokens: raise --max-length, "
            "or cut them with --too-long truncate or leave them out with --too-long drop."
        )


def check_vocabulary(texts: Iterable["array[int]"], vocabulary: int | None) -> None:
    """Check that a model embeds every token of texts, none of which is empty."""
    if vocabulary is None:
        return
    largest = max(map(max, texts), default=-1)
    if largest >= vocabulary:
        raise BaseModelError(
            f"The tokenizer writes token {largest}, but the model embeds only {vocabulary} "
            "tokens: use the tokenizer that the model was trained with."
        )


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A prompt and its answer in tokens; the answer ends with the token that closes it."""

    prompt_ids: "array[int]"
    answer_ids: "array[int]"

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """Examples in tokens, with what became of those that were too long."""

    answers: tuple[TokenAnswer, ...]
    renderings: frozenset[Rendering]
    dropped_long: int
    truncated: int
    manner: Manner


def tokenise_answers(
    examples: Sequence[Instruction],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    policy: Policy = "truncate",
    vocabulary: int | None = None,
) -> AnswerSet:
    """Write examples as tokens, none longer than `max_length`.

    A longer answer is cut at its end (`truncate`), or its example dropped (`drop`), or all are
    refused (`refuse`); one whose prompt leaves no room for an answer is dropped otherwise.
    """
    eos, closing = end_id(tokenizer), closing_ids(tokenizer)
    found: list[TokenAnswer] = []
    renderings: set[Rendering] = set()
    dropped = truncated = 0
    asked = (
        AnsweredPrompt(
            example.prompt,
            (example.answer,),
            f"example {number}",
            example.tools,
            example.template_options,
        )
        for number, example in enumerate(examples, start=1)
    )
    manner = Manner.of(tokenizer)
    for rendered, ids in encode_answers(asked, tokenizer):
        start = prompt_length(rendered, ids, tokenizer)
        manner.count(rendered, lost_end(rendered, ids, start, tokenizer))
        renderings.add(rendered.rendering)
        answer = close_answer(ids[1][start:], closing, eos, tokenizer)
        room = max_length - start
        if room < 1 or (len(answer) > room and policy == "drop"):
            dropped += 1
            continue
        truncated += len(answer) > room
        found.append(TokenAnswer(array("i", ids[0][:start]), array("i", answer[:room])))
    if policy == "refuse":
        refuse_long("examples", len(examples), dropped + truncated, max_length)
    check_vocabulary((ids for one in found for ids in (one.prompt_ids, one.answer_ids)), vocabulary)
    return AnswerSet(tuple(found), frozenset(renderings), dropped, truncated, manner)
