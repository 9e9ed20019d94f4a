"""From instructions to token ids, written as pairs are: what fine-tuning really sees."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefreg.data.instructions import Instruction
from prefreg.data.rendering import (
    Asked,
    Rendering,
    close_answer,
    closing_ids,
    encode_answers,
    end_id,
    prompt_length,
)
from prefreg.data.tokens import Policy, check_vocabulary, refuse_long

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def tokenize_answers(
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

    Raises:
        DataError: An example cannot be rendered, or is refused.
        BaseModelError: The tokenizer has no end of sequence, or writes ids that the model's
            `vocabulary` does not have.
    """
    eos, closing = end_id(tokenizer), closing_ids(tokenizer)
    found: list[TokenAnswer] = []
    renderings: set[Rendering] = set()
    dropped = truncated = 0
    asked = (
        Asked(example.prompt, (example.answer,), f"example {number}")
        for number, example in enumerate(examples, start=1)
    )
    for rendered, ids in encode_answers(asked, tokenizer):
        start = prompt_length(rendered, ids, tokenizer)
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
    return AnswerSet(tuple(found), frozenset(renderings), dropped, truncated)
