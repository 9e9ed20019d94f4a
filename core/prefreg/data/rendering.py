"""How the base writes a prompt and its answers as token ids.

Three ways to write a pair, recorded as its rendering:

- `chat`: messages, and the tokenizer has a chat template. Prompt and answer are rendered
  together, every key of a message with them. The answer begins where the prompt alone, with the
  generation prompt, and prompt and answer part; where a template ends the generation prompt with
  what it leaves out before an answer, as an opening of thought, such pairs are counted. Both must
  write the whole question alike.
- `none`: messages without a chat template; their contents joined without separators. Keys beside
  the content, which nothing would write, are refused.
- `text`: strings, verbatim.

In the last two a token may span the end of the prompt; as in TRL it then counts as the
answer's, and such pairs are counted. A beginning-of-sequence token comes first where the
tokenizer adds one and the text does not begin with it already, and the end-of-sequence token
ends an answer that does not end with it. A chat template ends answers itself: what it writes is
left as it is, as in TRL. Only an answer that shall teach to answer at all gets an end where its
template writes none.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from prefreg.axes.axis import Text
from prefreg.data.templates import (
    AnsweredPrompt,
    Rendered,
    Rendering,
    TemplateWriter,
    ending,
    source_of,
)
from prefreg.errors import BaseModelError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 128
"""Pairs written at a time: enough for a fast tokenizer's threads, little text in memory."""


@dataclass(slots=True)
class Manner:
    """How texts were written, where a run has to say so."""

    has_template: bool
    can_think: bool = False
    """Whether the template reads `enable_thinking`."""
    verbatim: int = 0
    """Strings on a base that has a chat template, which does not write them."""
    diverged: int = 0
    """Prompts that the template ends differently alone and before an answer."""
    lost_end: str = ""
    """How the first of those ends alone."""
    unwritten: Counter[str] = field(default_factory=Counter)
    """Keys that the template does not write, and how often."""
    incomplete: int = 0
    """Texts with such keys."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Manner":
        """Return that of a tokenizer, before anything is written."""
        source = source_of(tokenizer)
        return cls(bool(source), "enable_thinking" in source)

    def count(self, rendered: Rendered, lost_end: str) -> None:
        """Count a prompt with its answers."""
        self.verbatim += self.has_template and rendered.rendering == "text"
        self.diverged += bool(lost_end)
        self.lost_end = self.lost_end or lost_end
        self.unwritten.update(rendered.unwritten)
        self.incomplete += bool(rendered.unwritten)

    def notes(self, kind: str, remedy: str = "Write messages to use it.") -> tuple[str, ...]:
        """Say it in sentences; `kind` is what was counted."""
        found = []
        if self.verbatim:
            found.append(
                f"{self.verbatim} {kind} are strings, which are taken verbatim, as by TRL: the "
                f"base's chat template is not used. {remedy}"
            )
        if self.diverged:
            found.append(
                f"The chat template ends the prompt of {self.diverged} {kind} with "
                f"{self.lost_end[:40]!r}, which it leaves out before an answer: the answer begins "
                "where both part, as in TRL, and is generated after all of it."
                + " Its option enable_thinking may write both alike."
                * self.can_think
            )
        if self.unwritten:
            keys = ", ".join(f"{key!r} ({count})" for key, count in sorted(self.unwritten.items()))
            found.append(
                f"The chat template does not write all of {self.incomplete} {kind}: {keys}. What "
                "is not written is not learnt, as in TRL."
            )
        return tuple(found)


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id to pad batches with, which is always masked."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return end_id(tokenizer)


def encode_prompt(
    prompt: Text,
    tokenizer: "PreTrainedTokenizerBase",
    told: tuple[str, str] = ("", ""),
) -> list[int]:
    """Write a prompt as training wrote it, ready for an answer to be generated."""
    asked = AnsweredPrompt(prompt, (), "the prompt", *told)
    with ending(tokenizer):
        writer = TemplateWriter(tokenizer)
        text = writer.render(prompt, asked, answering=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*_bos(tokenizer, ids), *ids] if writer.adds_bos(prompt) else ids


def end_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the end-of-sequence token."""
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'the base'} has no end-of-sequence "
            "token, so answers cannot end: set eos_token in its tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def closing_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Return the special tokens that can close a turn; an unknown word is none of them."""
    added = (id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset({*added, *tokenizer.all_special_ids} - {tokenizer.unk_token_id})


def _bos(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[int]:
    """Return the beginning-of-sequence token where the tokenizer adds it and `ids` lack it."""
    bos = tokenizer.bos_token_id
    if bos is None or list(ids[:1]) == [bos] or tokenizer("a")["input_ids"][:1] != [bos]:
        return []
    return [int(bos)]


def encode_answers(
    asked: Iterable[AnsweredPrompt], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[Rendered, list[list[int]]]]:
    """Yield each rendering with the ids of its prompt and of prompt and answer, for each answer."""
    with ending(tokenizer):
        waiting, writer = iter(asked), TemplateWriter(tokenizer)
    while chunk := list(islice(waiting, _CHUNK)):
        with ending(tokenizer):
            rendered = [writer.render_answers(item) for item in chunk]
        texts = [text for item in rendered for text in (item.prompt, *item.answers)]
        encoded: list[list[int]] = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        ids = iter(encoded)
        for each, item in zip(chunk, rendered, strict=True):
            parts = list(islice(ids, 1 + len(item.answers)))
            if writer.adds_bos(each.prompt):
                bos = _bos(tokenizer, parts[1])
                parts = [bos + part for part in parts]
            yield item, parts


def prompt_length(
    rendered: Rendered, ids: Sequence[list[int]], tokenizer: "PreTrainedTokenizerBase"
) -> int:
    """Return how many tokens the prompt shares with prompt and answer, of every answer."""
    prompt, *answers = ids
    length = min(_common_length(prompt, answer) for answer in answers)
    if length == 0:
        raise DataError(
            f"{rendered.name.capitalize()} has no prompt token before its answers, so that their "
            f"first token cannot be predicted: give it a prompt (it has {rendered.prompt[:40]!r})."
        )
    if lost_end(rendered, ids, length, tokenizer):
        answer = min(rendered.answers, key=lambda text: _common_length(rendered.prompt, text))
        same = _common_length(rendered.prompt, answer)
        if same < rendered.question:
            raise DataError(
                f"The chat template writes the question of {rendered.name} differently alone "
                f"and before an answer: after {rendered.prompt[max(0, same - 40) : same]!r} "
                f"comes {rendered.prompt[same : same + 40]!r} alone, but "
                f"{answer[same : same + 40]!r} before the answer. Use a base whose template "
                "writes both the same way."
            )
    return length


def lost_end(
    rendered: Rendered,
    ids: Sequence[list[int]],
    length: int,
    tokenizer: "PreTrainedTokenizerBase",
) -> str:
    """Return what the template writes at the end of the prompt, but not before an answer."""
    if rendered.rendering != "chat" or length >= len(ids[0]):
        return ""
    text = str(tokenizer.decode(ids[0][length:]))
    return text if text.strip() else ""


def _common_length(left: Sequence[object], right: Sequence[object]) -> int:
    if list(right[: len(left)]) == list(left):
        return len(left)
    same = takewhile(lambda both: both[0] == both[1], zip(left, right, strict=False))
    return sum(1 for _ in same)


def end_answer(rendering: Rendering, answer: list[int], eos: int) -> list[int]:
    """End an answer as TRL does: what a chat template writes is left as it is."""
    return answer if rendering == "chat" or answer[-1:] == [eos] else [*answer, eos]


def close_answer(
    answer: list[int], closing: frozenset[int], eos: int, tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """Add the end of sequence to an answer that no closing token ends; white space may follow."""
    end = len(answer)
    while end and answer[end - 1] not in closing and _is_space(answer[end - 1], tokenizer):
        end -= 1
    return answer if end and answer[end - 1] in closing else [*answer, eos]


def _is_space(token: int, tokenizer: "PreTrainedTokenizerBase") -> bool:
    return not str(tokenizer.decode([token])).strip()
