"""What a base's chat template writes of a prompt and its answers, as text.

Where a processor lies beside the tokenizer, as with models that see, the template is given each
text as a list of one part, as in TRL. What a turn thought may be left out, and is counted; anything
else that a turn says must be written.

The option `strftime_now` of a template is a day, as 2026-11-27, which the template's function of
this name tells. Without it that is today, as in transformers.
"""

import json
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefreg.axes.axis import RESERVED, Message, Text, plain_text
from prefreg.errors import BaseModelError, DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendering = Literal["chat", "none", "text"]

_PATIENCE = 8.0
"""Seconds of the processor for what is written at a time: a thousand times as long as it takes."""
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
            f"The chat template of {tokenizer.name_or_path or 'the base'} does not come to an "
            f"end: it was ended after {_PATIENCE:g} s. Use a base whose template does."
        ) from None
    finally:
        signal.signal(signal.SIGVTALRM, before)


class TemplateWriter:
    """A tokenizer's chat template, if it has one, and how it takes the content of a message."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.in_parts = False
        if tokenizer.chat_template and _has_processor(tokenizer):
            self.in_parts = self._takes(in_parts=True)

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
        return Rendered(rendering, prompt, tuple(texts), asked.name, question, frozenset(unwritten))

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
        text = str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        if len(text) > _MOST_TEXT and len(text) > 8 * len(json.dumps([turns, options])):
            raise ValueError(f"it writes {len(text):,} letters")
        return text

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
    words = {*re.findall(r"[A-Za-z_]\w*", source_of(tokenizer))} - {*RESERVED}
    for name in options:
        if name not in words:
            near = get_close_matches(name, sorted(words), 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"The base's chat template reads no option {name!r}.{hint}")


def find_day(tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any]) -> str | None:
    """Return today's date where the chat template tells it, with these options; else None."""
    if DAY not in source_of(tokenizer) or DAY in options:
        return None
    with ending(tokenizer):
        writer = TemplateWriter(tokenizer)
    asked, written = (Message("user", "Is it red?"),), set()
    for day in ("2001-02-03", "2004-05-06"):
        told = AnsweredPrompt(asked, (), "a prompt", "", json.dumps({**options, DAY: day}))
        try:
            with ending(tokenizer):
                written.add(writer.render(asked, told, answering=True))
        except DataError:  # it wants other turns, and may tell the day with them
            written.add(day)
    return date.today().isoformat() if len(written) > 1 else None


def source_of(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the text of the chat template, or of all where there are several by name."""
    found = tokenizer.chat_template or ""
    texts = list(found.values()) if isinstance(found, Mapping) else [found]
    if not all(isinstance(text, str) for text in texts):
        raise BaseModelError(
            f"The chat template of {tokenizer.name_or_path or 'the base'} is no text: correct its "
            "tokenizer_config.json."
        )
    return "\n".join(texts)
