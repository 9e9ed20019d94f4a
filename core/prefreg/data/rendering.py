"""How the base writes a prompt and its answers as token ids.

Three ways to write a pair, recorded as its rendering:

- `chat`: messages, and the tokenizer has a chat template. Prompt and answer are rendered
  together, every key of a message with them. The answer begins where the prompt alone, with the
  generation prompt, and prompt and answer part; where a template ends the generation prompt with
  what it leaves out before an answer, as an opening of thought, such pairs are counted. Both must
  write the whole question alike. Where a processor lies beside the tokenizer, as with models
  that see, its template is given each text as a list of one part. What a turn thought may be left
  out, and is counted; anything else that a turn says must be written.
- `none`: messages without a chat template; their contents joined without separators. Keys beside
  the content, which nothing would write, are refused.
- `text`: strings, verbatim.

The option `strftime_now` of a template is a day, as 2026-11-27, which the template's function of
this name tells. Without it that is today, as in transformers.

In the last two a token may span the end of the prompt; as in TRL it then counts as the
answer's, and such pairs are counted. A beginning-of-sequence token comes first where the
tokenizer adds one and the text does not begin with it already. The end-of-sequence token
closes an answer exactly once, unless the template closes the turn with another special token;
what a template writes after the closing token is cut, as generation stops there.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefreg.axes.axis import RESERVED, Message, Text, plain_text
from prefreg.errors import BaseModelError, DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendering = Literal["chat", "none", "text"]

_CHUNK = 512
"""Pairs tokenised at a time: enough for a fast tokenizer's threads, little text in memory."""


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
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        return cls(bool(template), "enable_thinking" in template)

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
    writer = _Writer(tokenizer)
    text = writer.render(prompt, AnsweredPrompt(prompt, (), "the prompt", *told), answering=True)
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
    waiting, writer = iter(asked), _Writer(tokenizer)
    while chunk := list(islice(waiting, _CHUNK)):
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


DAY = "strftime_now"
"""The option of a template that says which day it tells."""
_AT_DAY = """{%- macro strftime_now(form) %}{% if form not in _days %}\
{{ raise_exception('it tells the time by a form that is not written out in it') }}{% endif %}\
{{ _days[form] }}{% endmacro %}
"""
"""Comes before a template, and tells a given day instead of today."""
_FORM = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?("[^"]*"|'[^']*')""")


def _name_day(day: object, template: str) -> dict[str, str]:
    """Write a day in each form in which a template tells it."""
    try:
        found = date.fromisoformat(str(day))
    except ValueError:
        raise ValueError(f"{DAY!r} is {day!r}, and no day as 2026-11-27") from None
    return {form[1:-1]: found.strftime(form[1:-1]) for form in _FORM.findall(template)}


def check_options(tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any]) -> None:
    """Refuse options that the chat template does not read.

    Raises:
        UsageError: The template does not name an option, or there is no template.
    """
    if not options:
        return
    if not tokenizer.chat_template:
        raise UsageError(
            f"The base has no chat template, so that it takes no option {min(options)!r}."
        )
    template = tokenizer.get_chat_template()
    words = {*re.findall(r"[A-Za-z_]\w*", template)} - {*RESERVED}
    for name in options:
        if name not in words:
            near = get_close_matches(name, sorted(words), 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"The base's chat template reads no option {name!r}.{hint}")


def find_day(tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any]) -> str | None:
    """Return today's date where the chat template tells it, with these options; else None."""
    if not tokenizer.chat_template or DAY not in tokenizer.get_chat_template() or DAY in options:
        return None
    writer, asked, written = _Writer(tokenizer), (Message("user", "Is it red?"),), set()
    for day in ("2001-02-03", "2004-05-06"):
        told = AnsweredPrompt(asked, (), "a prompt", "", json.dumps({**options, DAY: day}))
        try:
            written.add(writer.render(asked, told, answering=True))
        except DataError:  # it wants other turns, and may tell the day with them
            written.add(day)
    return date.today().isoformat() if len(written) > 1 else None


_THOUGHTS = {
    "<think>": "</think>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|channel>": "<channel|>",
}
"""The tags of a thought within the content, as DeepSeek, Seed, Mistral and Gemma write them."""


def _split_thought(content: str) -> tuple[str, str, str]:
    """Return the tag of a thought, what a turn thought between tags, and what it then said."""
    for tag, end in _THOUGHTS.items():
        if end in content:
            thought, _, said = content.rpartition(end)
            return tag, thought.replace(tag, "").replace(end, "").strip(), said.strip()
    return "", "", content.strip()


def _sayings(turn: Message) -> tuple[str, ...]:
    """Return what must be found of a turn: all of it, or what it said after it thought."""
    said = _split_thought(turn.content)[2]
    return (turn.content.strip(), said) if said else (turn.content.strip(),)


def _holds(rendered: str, said: str) -> bool:
    # Some templates write what a tool returned as JSON.
    return said in rendered or json.dumps(said, ensure_ascii=False)[1:-1] in rendered


_ROLES_IN_PARTS = ("system", "user", "assistant", "tool")
_DUMPED = re.compile(r"""\[\{['"]type['"]: ['"]text['"]""")
"""How a template writes a list of parts that it takes for a string."""
_OF_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_FOR_PROCESSORS = (
    f"It is for a processor, which gives it lists of parts: put {' or '.join(_OF_PROCESSORS)} "
    "beside the tokenizer."
)


def _has_processor(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer is that of a processor, which TRL then takes in its place."""
    return any((Path(tokenizer.name_or_path) / name).is_file() for name in _OF_PROCESSORS)


def _in_parts(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Write the content of a turn as a list of parts, as TRL does for processors."""
    if turn["role"] not in _ROLES_IN_PARTS:
        raise ValueError(f"a processor's roles are {', '.join(_ROLES_IN_PARTS)}")
    if turn["content"] is None:
        return dict(turn)
    return {**turn, "content": [{"type": "text", "text": turn["content"]}]}


def _join(turns: Sequence[Message], asked: AnsweredPrompt) -> str:
    """Join the contents of messages, which have nothing else that would have to be written."""
    lost = [key for turn in turns for key, value in turn.more.items() if value]
    lost += ["tools"] if json.loads(asked.tools or "[]") else []
    lost += ["chat_template_kwargs"] if json.loads(asked.template_options or "{}") else []
    if lost:
        raise DataError(
            f"The base has no chat template, so that {lost[0]!r} of {asked.name} cannot be "
            f"written (after {turns[0].content.strip()[:60]!r}): use a base that has one, or "
            "leave it out of the data."
        )
    return plain_text(tuple(turns))


def _end_of_question(turns: Text, rendered: str) -> int:
    end = 0
    for turn in () if isinstance(turns, str) else turns:
        for said in _sayings(turn):
            # What the template has written as JSON is not found.
            if (place := rendered.find(said, end)) >= 0:
                end = place + len(said)
                break
    return end


def _without_opening(text: str, prompt: str, opening: str) -> str:
    """Cut the opening of another turn off an answer, if there is one."""
    found = text.rstrip()
    end = len(found) - len(opening)
    opened = found.endswith(opening) and found[:end].startswith(prompt.rstrip())
    return found[:end] if opened else text


class _Writer:
    """A tokenizer's chat template, if it has one, and how it takes the content of a message."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.in_parts = False
        if tokenizer.chat_template and _has_processor(tokenizer):
            self.in_parts = self._takes(in_parts=True)

    @cached_property
    def _special(self) -> list[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return [str(token) for token in added if token.special]

    def adds_bos(self, prompt: Text) -> bool:
        """Whether the tokenizer begins the text, and not a template alone.

        A processor begins what its template did not begin.
        """
        return self.in_parts or self.rendering(prompt) != "chat"

    def rendering(self, prompt: Text) -> Rendering:
        """Return how a prompt is written."""
        if isinstance(prompt, str):
            return "text"
        return "chat" if self.tokenizer.chat_template else "none"

    def render_answers(self, asked: AnsweredPrompt) -> Rendered:
        """Write a prompt alone, and with each of its answers."""
        rendering = self.rendering(asked.prompt)
        prompt = self.render(asked.prompt, asked, answering=True)
        texts = []
        unwritten: set[str] = set()
        for answer in asked.answers:
            if isinstance(asked.prompt, str) or isinstance(answer, str) or rendering == "none":
                texts.append(prompt + self.render(answer, asked, answering=False))
            else:
                whole = (*asked.prompt, *answer)
                texts.append(self.render(whole, asked, answering=False))
                unwritten |= self._unwritten(whole, texts[-1], asked)
        question = _end_of_question(asked.prompt, prompt) if rendering == "chat" else 0
        if opening := self._opening(prompt[question:]) if question else "":
            texts = [_without_opening(text, prompt, opening) for text in texts]
        return Rendered(rendering, prompt, tuple(texts), asked.name, question, frozenset(unwritten))

    def _opening(self, end: str) -> str:
        """Return what the end of a prompt has after the token that closes the last turn.

        Some templates open a turn of the assistant always, after an answer too.
        """
        places = [end.find(token) + len(token) for token in self._special if token in end]
        return end[min(places, default=0) :].strip()

    def render(self, text: Text, asked: AnsweredPrompt, *, answering: bool) -> str:
        """Write strings verbatim, and messages by the template, where all must be found again."""
        if isinstance(text, str):
            return text
        if not self.tokenizer.chat_template:
            return _join(text, asked)
        roles = ", ".join(turn.role for turn in text)
        turns = [turn.to_json() for turn in text]
        try:
            rendered = self._write(turns, asked, add_generation_prompt=answering)
        except Exception as error:  # a template may raise anything
            reason = (str(error) or type(error).__name__).rstrip(".")
            raise DataError(
                f"The base's chat template refused {asked.name} (roles: {roles}): {reason}. "
                + self._remedy(
                    "Give the data other roles, or use a base whose template takes them."
                )
            ) from error
        for turn in text:
            dumped = self.in_parts and _DUMPED.search(rendered) and not _DUMPED.search(turn.content)
            if dumped or not any(_holds(rendered, said) for said in _sayings(turn)):
                raise DataError(
                    f"The base's chat template leaves out or changes the {turn.role!r} turn of "
                    f"{asked.name} (roles: {roles}): {turn.content.strip()[:60]!r}. "
                    + self._remedy("Move its content into another turn.")
                )
        return rendered

    def _remedy(self, usual: str) -> str:
        wants_parts = self._takes(in_parts=True) and not self._takes(in_parts=False)
        return _FOR_PROCESSORS if wants_parts and not self.in_parts else usual

    def _takes(self, *, in_parts: bool) -> bool:
        """Whether the template writes contents that are lists of parts, or that are strings."""
        said = {"user": "Is it red?", "assistant": "It is."}
        given = [{"role": role, "content": content} for role, content in said.items()]
        try:
            found = self._apply(list(map(_in_parts, given)) if in_parts else given)
        except Exception:  # a template may raise anything
            return False
        return not _DUMPED.search(found) and all(content in found for content in said.values())

    def _write(self, turns: Iterable[dict[str, Any]], asked: AnsweredPrompt, **options: Any) -> str:
        """Apply the chat template as TRL does."""
        told: dict[str, Any] = {"tools": json.loads(asked.tools) if asked.tools else None}
        told |= json.loads(asked.template_options or "{}")
        if DAY in told:
            template = self.tokenizer.get_chat_template(None, told["tools"])
            days = _name_day(told.pop(DAY), template)
            options |= {"chat_template": _AT_DAY + template, "_days": days}
        given = list(map(_in_parts, turns)) if self.in_parts else list(turns)
        return self._apply(given, **told, **options)

    def _apply(self, turns: list[dict[str, Any]], **options: Any) -> str:
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))

    def _unwritten(
        self, turns: Sequence[Message], rendered: str, asked: AnsweredPrompt
    ) -> set[str]:
        """Name the keys, of messages or for all of them, without which the same would be written.

        A thought within the content is called by the tag that begins it.
        """
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
                same = self._write(bare, told) == rendered
            except Exception:  # it cannot do without
                same = False
            if same:
                found.add(key)
        for turn in turns:
            tag, thought, _ = _split_thought(turn.content)
            if thought and not _holds(rendered, thought):
                found.add(tag)
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
