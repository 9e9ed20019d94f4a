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
tokenizer adds one and the text does not begin with it already. The end-of-sequence token
closes an answer exactly once, unless the template closes the turn with another special token;
what a template writes after the closing token is cut, as generation stops there.
"""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefreg.axes.axis import Message, Text, plain_text
from prefreg.errors import BaseModelError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendering = Literal["chat", "none", "text"]

_CHUNK = 128
"""Pairs written at a time: enough for a fast tokenizer's threads, little text in memory."""
_PATIENCE = 8.0
"""Seconds of the processor that a chunk may take: a thousand times as long as short texts need."""
_MOST_TEXT = 1 << 24
"""Letters up to which a template may write any number for one that it is given."""


class AnsweredPrompt(NamedTuple):
    """A prompt with the answers that may follow it, and what messages call it."""

    prompt: Text
    answers: tuple[Text, ...]
    name: str
    tools: str = ""
    """The tools that the chat template is told of, as JSON text of a list."""
    template_options: str = ""
    """What else the chat template is told, as JSON text of an object."""


class Rendered(NamedTuple):
    """A prompt and its answers as text; the answers stand after the prompt."""

    rendering: Rendering
    prompt: str
    answers: tuple[str, ...]
    name: str
    question: int
    """Where the last turn of the prompt ends in the rendered one, before the answer is opened."""
    unwritten: frozenset[str]
    """Keys of its messages that the template does not write."""


@dataclass(slots=True)
class Manner:
    """How texts were written, where a run has to say so."""

    has_template: bool
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
                "where both part, as in TRL."
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
    rendering = _rendering(prompt, tokenizer)
    asked = AnsweredPrompt(prompt, (), "the prompt", *told)
    with ending(tokenizer):
        text = _render(prompt, tokenizer, asked, answering=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids if rendering == "chat" else [*_bos(tokenizer, ids), *ids]


def end_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the end-of-sequence token."""
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"The tokenizer of {_named(tokenizer)} has no end-of-sequence "
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


def _rendering(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> Rendering:
    if isinstance(prompt, str):
        return "text"
    return "chat" if tokenizer.chat_template else "none"


def encode_answers(
    asked: Iterable[AnsweredPrompt], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[Rendered, list[list[int]]]]:
    """Yield each rendering with the ids of its prompt and of prompt and answer, for each answer."""
    waiting = iter(asked)
    while taken := list(islice(waiting, _CHUNK)):
        with ending(tokenizer):
            chunk = [_render_answers(item, tokenizer) for item in taken]
        texts = [text for item in chunk for text in (item.prompt, *item.answers)]
        encoded: list[list[int]] = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        ids = iter(encoded)
        for item in chunk:
            parts = list(islice(ids, 1 + len(item.answers)))
            if item.rendering != "chat":
                bos = _bos(tokenizer, parts[1])
                parts = [bos + part for part in parts]
            yield item, parts


def _render_answers(asked: AnsweredPrompt, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    rendering = _rendering(asked.prompt, tokenizer)
    prompt = _render(asked.prompt, tokenizer, asked, answering=True)
    texts = []
    unwritten: set[str] = set()
    for answer in asked.answers:
        if isinstance(asked.prompt, str) or isinstance(answer, str) or rendering == "none":
            texts.append(prompt + _render(answer, tokenizer, asked, answering=False))
        else:
            whole = (*asked.prompt, *answer)
            texts.append(_render(whole, tokenizer, asked, answering=False))
            unwritten |= _unwritten(whole, texts[-1], tokenizer, asked)
    question = _end_of_question(asked.prompt, prompt) if rendering == "chat" else 0
    return Rendered(rendering, prompt, tuple(texts), asked.name, question, frozenset(unwritten))


class _Endless(BaseException):
    """Nothing between a template and its writer catches it."""


@contextmanager
def ending(tokenizer: "PreTrainedTokenizerBase") -> Iterator[None]:
    """Refuse a chat template that does not come to an end, as a loop within a loop may not.

    What counts is the time of the processor, so that a busy machine changes nothing. Signals reach
    the main thread alone: in others nothing is refused.

    Raises:
        BaseModelError: What is written within takes longer than any template needs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Endless

    before = signal.signal(signal.SIGVTALRM, end)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _Endless:
        raise BaseModelError(
            f"The chat template of {_named(tokenizer)} does not come to an end: it was ended after "
            f"{_PATIENCE:g} s. Use a base whose template does."
        ) from None
    finally:
        signal.signal(signal.SIGVTALRM, before)


def _named(tokenizer: "PreTrainedTokenizerBase") -> str:
    return tokenizer.name_or_path or "the base"


def _end_of_question(turns: Text, rendered: str) -> int:
    end = 0
    for turn in () if isinstance(turns, str) else turns:
        said = turn.content.strip()
        # What the template has written as JSON is not found.
        if (place := rendered.find(said, end)) >= 0:
            end = place + len(said)
    return end


def _render(
    text: Text, tokenizer: "PreTrainedTokenizerBase", asked: AnsweredPrompt, *, answering: bool
) -> str:
    if isinstance(text, str):
        return text
    if not tokenizer.chat_template:
        lost = [key for turn in text for key, value in turn.more.items() if value]
        lost += ["tools"] if json.loads(asked.tools or "[]") else []
        lost += ["chat_template_kwargs"] if json.loads(asked.template_options or "{}") else []
        if lost:
            raise DataError(
                f"The base has no chat template, so that {lost[0]!r} of {asked.name} cannot be "
                f"written (after {text[0].content.strip()[:60]!r}): use a base that has one, or "
                "leave it out of the data."
            )
        return plain_text(text)
    roles = ", ".join(turn.role for turn in text)
    try:
        rendered = _write(
            [turn.to_json() for turn in text], tokenizer, asked, add_generation_prompt=answering
        )
    except Exception as error:  # a template may raise anything
        raise DataError(
            f"The base's chat template refused {asked.name} (roles: {roles}): "
            f"{str(error) or type(error).__name__}. Give the data other roles, or use a base "
            "whose template takes them."
        ) from error
    for turn in text:
        said = turn.content.strip()
        # Some templates write what a tool returned as JSON.
        if said not in rendered and json.dumps(said, ensure_ascii=False)[1:-1] not in rendered:
            raise DataError(
                f"The base's chat template leaves out or changes the {turn.role!r} turn of "
                f"{asked.name} (roles: {roles}): {said[:60]!r}. Move its content into another "
                "turn."
            )
    return rendered


def _write(
    turns: Sequence[dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    asked: AnsweredPrompt,
    **options: Any,
) -> str:
    """Apply the chat template as TRL does."""
    told: dict[str, Any] = {"tools": json.loads(asked.tools) if asked.tools else None}
    told |= json.loads(asked.template_options or "{}")
    text = str(tokenizer.apply_chat_template(list(turns), tokenize=False, **told, **options))
    if len(text) > _MOST_TEXT and len(text) > 8 * len(json.dumps([turns, told])):
        raise ValueError(f"it writes {len(text):,} letters")
    return text


def _unwritten(
    turns: Sequence[Message],
    rendered: str,
    tokenizer: "PreTrainedTokenizerBase",
    asked: AnsweredPrompt,
) -> set[str]:
    """Name the keys, of messages or for all of them, without which the same would be written."""
    whole = [turn.to_json() for turn in turns]
    keys = {key for turn in turns for key, value in turn.more.items() if value}
    variants = {
        key: ([{name: turn[name] for name in turn if name != key} for turn in whole], asked)
        for key in sorted(keys)
    }
    if json.loads(asked.tools or "[]"):
        variants["tools"] = whole, asked._replace(tools="")
    found = set()
    for key, (bare, told) in variants.items():
        try:
            same = _write(bare, tokenizer, told) == rendered
        except Exception:  # it cannot do without
            same = False
        if same:
            found.add(key)
    return found


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


def close_answer(
    answer: list[int], closing: frozenset[int], eos: int, tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """End an answer at its closing token, or add the end of sequence."""
    end = len(answer)
    while end and answer[end - 1] not in closing and _is_space(answer[end - 1], tokenizer):
        end -= 1
    if not end or answer[end - 1] not in closing:
        return [*answer, eos]
    while end > 1 and answer[end - 2] == answer[end - 1] == eos:
        end -= 1
    return answer[:end]


def _is_space(token: int, tokenizer: "PreTrainedTokenizerBase") -> bool:
    return not str(tokenizer.decode([token])).strip()
