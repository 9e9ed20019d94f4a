"""What an axis is: preference pairs, where their rows come from, and how they are labelled."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

from prefreg.errors import AxisError, DataError
from prefreg.json_values import parse_json
from prefreg.plain_yaml import DEEPEST
from prefreg.terms import AXIS_NAME

Row = Mapping[str, Any]
"""One row of a data set: column name to value."""


class Message(tuple[str, ...]):
    """One turn of a dialogue: who speaks, what is said, and what else a template may write of it.

    `more` holds the other keys of a turn, as `tool_calls` or `reasoning_content`. A `content` of
    None in it says that the turn has none; its text is then empty.
    """

    # A turn of role and content alone is a tuple of the two, so that its hash and its JSON are
    # what they were before turns had more. What is more is JSON text, which nobody can change.
    __slots__ = ()
    __match_args__ = ("role", "content")

    def __new__(cls, role: str, content: str, more: Mapping[str, Any] | str | None = None) -> Self:
        """Make a turn; `more` is a mapping, or its JSON text."""
        text = more if isinstance(more, str) else write_json(more, "a message") if more else ""
        return super().__new__(cls, (role, content, text) if text else (role, content))

    @property
    def role(self) -> str:
        """Return who speaks."""
        return self[0]

    @property
    def content(self) -> str:
        """Return what is said."""
        return self[1]

    @property
    def more(self) -> dict[str, Any]:
        """Return the other keys with their values."""
        return dict(json.loads(self[2])) if len(self) > 2 else {}

    def to_json(self) -> dict[str, Any]:
        """Return the turn as templates take it."""
        return {"role": self.role, "content": self.content, **self.more}

    _asdict = to_json  # turns were named tuples

    def _replace(self, **changes: Any) -> Self:
        kept: dict[str, Any] = {"role": self.role, "content": self.content, "more": self.more}
        return type(self)(**kept | changes)

    def __getnewargs__(self) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        more = f", more={self.more!r}" if len(self) > 2 else ""
        return f"Message(role={self.role!r}, content={self.content!r}{more})"


Text = str | tuple[Message, ...]
"""Plain text, used verbatim, or messages, rendered through the base's chat template."""
Answer = TypeVar("Answer", str, tuple[Message, ...])
PromptFrom = Literal["row", "beginning", "repetition"]
PROMPT_NAMES = ("question", "instruction", "query", "input")
"""What a column is called that holds the prompt, where none is called `prompt`."""
RESERVED = (
    *("add_generation_prompt", "continue_final_message", "chat_template", "conversation"),
    *("messages", "tools", "tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask"),
)
"""What decides how a text is written at all, and is no option of a template."""
_ASKING = ("user", "human", "system", "developer")
"""Roles of those who ask: no answer begins with them."""
_GREETING = 3
"""So few words may come back in both answers, as "Hello" does, and are no repetition."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with a preferred and a dispreferred answer, in TRL's two formats.

    Either all three fields are strings (the standard format, used verbatim) or all three are
    tuples of messages (the conversational format, rendered through the chat template).
    """

    prompt: Text
    chosen: Text
    rejected: Text
    group: str | None = None
    """Rows that share a group never stand on both sides of a split; the prompt if absent."""
    tools: str = field(default="", kw_only=True)
    """The tools that the chat template is told of: the JSON text of a list, if there is one."""
    template_options: str = field(default="", kw_only=True)
    """What else the chat template is told: the JSON text of an object, if there is one."""
    prompt_from: PromptFrom = field(default="row", kw_only=True, compare=False, repr=False)
    """Whether the row named its prompt, or it is what both answers begin with, or the answers
    repeated it and the repetition was taken away."""

    @classmethod
    def from_texts(
        cls, *, prompt: str, chosen: str, rejected: str, group: str | None = None
    ) -> Self:
        """Make the pair of one user turn and two answers of the assistant."""
        return cls(
            prompt=(Message("user", prompt),),
            chosen=(Message("assistant", chosen),),
            rejected=(Message("assistant", rejected),),
            group=group,
        )

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Read a row of TRL's preference format: `chosen`, `rejected`, and mostly a `prompt`.

        Without a prompt, or with a string beside whole dialogues, it is what both answers begin
        with. The columns `tools` and `chat_template_kwargs` are what the chat template is told.

        Raises:
            DataError: A column is missing, empty or of another shape, or an answer begins with a
                question.
        """
        if missing := [column for column in ("chosen", "rejected") if column not in row]:
            raise DataError(
                f"column {', '.join(map(repr, missing))} is missing "
                f"(found: {', '.join(sorted(row)) or 'none'})"
            )
        for column in ("image", "images"):
            if row.get(column):
                raise DataError(f"column {column!r} shows a picture, and only text is learnt from")
        prompt, chosen, rejected, prompt_from = _read_texts(row)
        group = row.get("group")
        if isinstance(group, float) and not math.isfinite(group):
            raise DataError(f"column 'group' is {group}, which names no group")
        tools, options = read_told(row, prompt)
        pair = cls(
            prompt,
            chosen,
            rejected,
            None if group is None else str(group),
            tools=tools,
            template_options=options,
            prompt_from=prompt_from,
        )
        return without_repetition(pair)

    @property
    def told(self) -> tuple[str, str]:
        """Return what the chat template is told beside the messages: tools and options."""
        return self.tools, self.template_options

    def to_row(self) -> dict[str, Any]:
        """Return the row that `from_row` reads as this pair."""
        texts = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        row: dict[str, Any] = {
            name: text if isinstance(text, str) else [turn.to_json() for turn in text]
            for name, text in texts.items()
        }
        row["group"] = self.group
        if self.tools:
            row["tools"] = json.loads(self.tools)
        if self.template_options:
            row["chat_template_kwargs"] = json.loads(self.template_options)
        return row

    def tell(self, options: Mapping[str, Any]) -> Self:
        """Tell the chat template these options too, beneath the row's own; strings need none."""
        if not options or isinstance(self.prompt, str):
            return self
        return replace(self, template_options=merge_options(options, self.template_options))

    def switched(self) -> Self:
        """Exchange chosen and rejected: the pair that the negative pole is trained on."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)


Pair = TypeVar("Pair", bound=PreferencePair)


def plain_text(text: Text) -> str:
    """Join the contents of messages without separators; a string is returned as it is."""
    return text if isinstance(text, str) else "".join(message.content for message in text)


def is_blank(text: Text) -> bool:
    """Whether a text says nothing: white space alone, and no call of a tool or the like."""
    if plain_text(text).strip():
        return False
    return isinstance(text, str) or not any(any(turn.more.values()) for turn in text)


def without_repetition(pair: Pair) -> Pair:
    """Take the prompt away from the beginning of both answers, where it stands again.

    Messages are repeated where both answers begin with all of them; a string where both begin with
    the whole of it, unless it is a few words that are no question.
    """
    prompt, chosen, rejected = pair.prompt, pair.chosen, pair.rejected
    rest: tuple[Text, Text] | None = None
    if isinstance(prompt, str) or isinstance(chosen, str) or isinstance(rejected, str):
        # A prompt that was found as the beginning stands there once.
        if pair.prompt_from != "beginning":
            rest = _cut_text(plain_text(prompt), plain_text(chosen), plain_text(rejected))
    elif all(answer[: len(prompt)] == prompt != answer for answer in (chosen, rejected)):
        rest = chosen[len(prompt) :], rejected[len(prompt) :]
    if rest is not None:
        chosen, rejected = rest
        _check_said(chosen, rejected, _ONLY_REPEATED)
        pair = replace(pair, chosen=chosen, rejected=rejected, prompt_from="repetition")
    for column, answer in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(answer, str) and answer[0].role in _ASKING:
            raise DataError(
                f"column {column!r} begins with a turn of {answer[0].role!r}, which is no answer: "
                "put what both answers begin with into 'prompt', or leave 'prompt' out"
            )
    return pair


def _cut_text(prompt: str, chosen: str, rejected: str) -> tuple[str, str] | None:
    """Return what both answers say beyond the prompt that they repeat; None if they do not."""
    asks = prompt.endswith(("?", ":")) or prompt != prompt.rstrip()
    if not prompt.strip() or not (asks or len(prompt.split()) > _GREETING):
        return None
    if chosen.startswith(prompt) and rejected.startswith(prompt):
        return chosen[len(prompt) :], rejected[len(prompt) :]
    # The white space around it may differ.
    asked, first, second = prompt.strip(), chosen.lstrip(), rejected.lstrip()
    if first.startswith(asked) and second.startswith(asked):
        return first[len(asked) :], second[len(asked) :]
    return None


_ONLY_REPEATED = "repeats the prompt and says nothing more"


def _check_said(chosen: Text, rejected: Text, lacking: str) -> None:
    for column, answer in (("chosen", chosen), ("rejected", rejected)):
        if is_blank(answer):
            raise DataError(f"column {column!r} {lacking}")


def _read_texts(row: Row) -> tuple[Text, Text, Text, PromptFrom]:
    """Read prompt and answers, all three of one kind."""
    chosen, rejected = (_read_text(row[column], column) for column in ("chosen", "rejected"))
    named = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if named is None:
            return _read_beginning(row, chosen, rejected)
        prompt = _read_text(named, "prompt")
        if isinstance(prompt, str):
            return prompt, chosen, rejected, "row"
        rest = _cut_text(plain_text(prompt), chosen, rejected)
        first, second = rest or (chosen, rejected)
        _check_said(first, second, _ONLY_REPEATED)
        answers = (Message("assistant", first),), (Message("assistant", second),)
        return prompt, *answers, "repetition" if rest else "row"
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise DataError("'chosen' and 'rejected' mix strings and message lists")
    asks = any(answer[0].role in _ASKING for answer in (chosen, rejected))
    if named is None or (isinstance(named, str) and (asks or not named.strip())):
        return _read_beginning(row, chosen, rejected)
    prompt = _read_text(named, "prompt")
    if isinstance(prompt, str):
        prompt = (Message("user", prompt),)
    return prompt, chosen, rejected, "row"


def _read_beginning(
    row: Row, chosen: Answer, rejected: Answer
) -> tuple[Text, Text, Text, PromptFrom]:
    """Take what both answers begin with for the prompt, as TRL's `extract_prompt` does."""
    named = row.get("prompt")
    other = next((name for name in PROMPT_NAMES if isinstance(row.get(name), str)), None)
    if isinstance(chosen, str) and other is not None:
        raise DataError(f"column 'prompt' is missing; if {other!r} is meant, give it that name")
    end = min(len(chosen), len(rejected)) - 1
    for place in range(end + 1):
        if chosen[place] != rejected[place]:
            end = place - (place > 0 and chosen[place - 1] == " ")
            break
    prompt, first, second = chosen[:end], chosen[end:], rejected[end:]
    if not prompt or is_blank(prompt):
        raise DataError(
            "'chosen' and 'rejected' begin with nothing that they share, which would be the "
            "prompt: add it as 'prompt', as messages where they are messages"
        )
    _check_said(first, second, "says nothing beyond what both begin with")
    if isinstance(named, str) and named.strip() and not isinstance(prompt, str):
        asked = " ".join(named.split())
        said = [" ".join(turn.content.split()) for turn in prompt]
        if not any(text and (text in asked or asked in text) for text in said):
            raise DataError(
                "column 'prompt' says something else than what both dialogues begin with: leave "
                "it out, or write it as a list of messages"
            )
    return prompt, first, second, "beginning"


_RENAMED = {"from": "role", "value": "content"}
_KEYS_IN_TEXT = ("'role'", '"role"', "'from'", '"from"')


def _read_text(value: object, column: str) -> Text:
    if isinstance(value, str):
        text: Text = value
        if value.lstrip().startswith("[{") and any(key in value for key in _KEYS_IN_TEXT):
            raise DataError(
                f"column {column!r} is the text of a list of messages, not the list: write a "
                ".jsonl or .parquet file, which holds lists"
            )
    elif isinstance(value, Sequence) and value:
        text = tuple(read_message(item, column) for item in value)
    else:
        raise DataError(f"column {column!r} is neither a string nor a list of messages")
    if is_blank(text):
        raise DataError(f"column {column!r} is empty")
    return text


def read_message(item: object, column: str) -> Message:
    """Read a message of a dialogue, with `from` and `value` for the names of its keys or without.

    Keys without a value are as good as absent, which is what tables make of absent ones.
    """
    if not isinstance(item, Mapping):
        raise DataError(f"column {column!r} has a message without 'role' and 'content' strings")
    keys: dict[str, Any] = {
        _RENAMED.get(str(key), str(key)): value for key, value in item.items() if value is not None
    }
    role, content = keys.pop("role", None), keys.pop("content", None)
    if isinstance(content, list | tuple):
        raise DataError(
            f"column {column!r} has a message whose content is a list of parts, and only text is "
            "read: write its text as one string"
        )
    if content is None and keys.get("tool_calls"):
        return Message(_checked(role, column), "", {"content": None, **keys})
    return Message(_checked(role, column), _checked(content, column), keys)


def _checked(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"column {column!r} has a message without 'role' and 'content' strings")
    return value


def read_told(row: Row, prompt: Text) -> tuple[str, str]:
    """Read what the chat template is told beside the messages: tools, and further options."""
    tools = _read_json(row, "tools", list)
    options = _read_json(row, "chat_template_kwargs", dict)
    if taken := sorted({*RESERVED} & {*json.loads(options or "{}")}):
        raise DataError(f"column 'chat_template_kwargs' sets {taken[0]!r}, which no row may")
    told = {"tools": json.loads(tools or "[]"), "chat_template_kwargs": json.loads(options or "{}")}
    for column, value in told.items():
        if value and isinstance(prompt, str):
            raise DataError(
                f"column {column!r} is for a chat template, and strings are taken verbatim, "
                "without one: write the texts as messages"
            )
    return tools, options


def _read_json(row: Row, column: str, kind: type[list[Any] | dict[str, Any]]) -> str:
    """Read a column that holds a list or an object, or its JSON text; return the text."""
    value = row.get(column)
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise DataError(f"column {column!r} is no JSON text: {error}") from error
    items = value if isinstance(value, list) else [value]
    if not isinstance(value, kind) or not all(isinstance(item, Mapping) for item in items):
        wanted = "a list of objects" if kind is list else "an object"
        raise DataError(f"column {column!r} is no JSON text of {wanted}, and not {wanted} itself")
    return write_json(value, f"column {column!r}")


def merge_options(options: Mapping[str, Any], own: str) -> str:
    """Return as JSON text the options of a template with those of a row over them."""
    found = {**options, **json.loads(own or "{}")}
    return write_json(found, "the template options") if found else ""


def write_json(value: object, what: str) -> str:
    """Write a value as JSON text, its keys in their order.

    Raises:
        DataError: JSON cannot hold it, or it is nested beyond all measure; the message says `what`.
    """
    level = [value]
    for _ in range(DEEPEST):
        below: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                below += each.values()
            elif isinstance(each, list | tuple):
                below += each
        level = below
    if level:
        raise DataError(f"{what} is nested more than {DEEPEST} levels deep")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} holds what JSON does not: {error}") from error


class BaseAnswer(NamedTuple):
    """What a base said."""

    text: str
    ended: bool
    """Whether it came to an end before `max_new_tokens`."""


class AskedBase(Protocol):
    """The base of a run, which a source may ask; it is loaded when it first has to answer."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def has_template(self) -> bool:
        """Whether it has a chat template."""

    def tell(self, text: str) -> None:
        """Tell the user something, as notes of a run are told."""

    def answers(
        self,
        groups: Sequence[Sequence[Text]],
        *,
        told: Sequence[tuple[str, str]] | None = None,
        max_new_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[BaseAnswer]]:
        """Answer every prompt of each group once; yield the answers of a group at a time.

        Answers are made in batches, each of which is kept: the same question gets the same
        answers again, at once. `told` is what the chat template is told beside each group, as
        `PreferencePair.told`. A preview ends before the groups do.
        """


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What a source is asked for."""

    limit: int | None = None
    """At most this many rows."""
    revision: str | None = None
    """The data set revision to pin; the newest if absent."""
    seed: int = 0
    base: AskedBase | None = field(default=None, compare=False, repr=False)
    """What a source may ask for answers; None where rows are only read."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows with their origin, as a source returns them when it knows more than the rows."""

    rows: Iterable[Row]
    origin: str
    revision: str | None = None
    """The revision that was really read, resolved to a commit where the origin has commits."""


Source = Callable[[SourceRequest], Iterable[Row] | SourceRows]


@dataclass(frozen=True, slots=True)
class LicensedSource:
    """A source whose data have a licence; it is called as the source itself is."""

    load: Source
    dataset: str
    """What the licence is of, by its name on the hub."""
    licence: str
    """An SPDX identifier where there is one."""

    def __call__(self, request: SourceRequest) -> Iterable[Row] | SourceRows:
        """Read the rows."""
        return self.load(request)


LabelRule = Callable[[Row], PreferencePair | None]
Switch = Callable[[PreferencePair], PreferencePair]
Metric = Callable[[str, str], float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """A dial that a plugin brings: data sources, a label rule and its switch.

    Raises:
        AxisError: The name or an alias is malformed, or there is no source.
    """

    name: str
    summary: str
    sources: Mapping[str, Source]
    """Named sources of rows; the first is the default on a base model of one's own."""
    label: LabelRule
    """Turn a row into a pair, or None for a tie, which is dropped for both poles."""
    aliases: tuple[str, ...] = ()
    switch: Switch = PreferencePair.switched
    """Make the pair of the negative pole from that of the positive pole."""
    metric: Metric | None = None
    """Score an answer, `(prompt, answer) -> float`, larger along the positive pole; None where the
    prompt or the answer is none that it can judge."""
    licence: str | None = field(default=None, kw_only=True)
    """The licence of the data of every source that states none of its own."""
    default_data: tuple[str, ...] = field(default=(), kw_only=True)
    """What `--data` says when nobody gives it, as `("a:0.7", "b:0.3")`; else the first source."""
    training: Mapping[str, Mapping[str, object]] = field(default_factory=dict, kw_only=True)
    """For a base that has a name, how the axis is trained there by default: `poles`, and fields of
    DPOConfig over the base's own."""
    owner: str | None = field(default=None, kw_only=True, compare=False, repr=False)
    """The plugin that brought the axis, for messages; set when it is loaded."""

    def __post_init__(self) -> None:
        for what, names in (("aliases", self.aliases), ("default data", self.default_data)):
            if not isinstance(names, tuple):
                raise AxisError(f"The {what} of axis {self.name!r} are {names!r}, no tuple.")
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not AXIS_NAME.fullmatch(name):
                raise AxisError(
                    f"{name!r} is no axis name: use a lower-case letter, "
                    "then letters, digits, '_' or '-'."
                )
        if not isinstance(self.sources, Mapping):
            raise AxisError(f"The sources of axis {self.name!r} are no mapping of names.")
        if not self.sources:
            raise AxisError(f"Axis {self.name!r} has no source of rows.")
        if not isinstance(self.training, Mapping) or not all(
            isinstance(settings, Mapping) for settings in self.training.values()
        ):
            raise AxisError(
                f"The training of axis {self.name!r} is no mapping of settings for each base."
            )
        lines: list[tuple[str, object]] = [("summary", self.summary)]
        for name in self.sources:
            lines += [("source name", name), ("licence", self.licence_of(name) or "")]
        for what, line in lines:
            if not _is_line(line):
                raise AxisError(f"The {what} of axis {self.name!r} is no single line of text.")
        functions = [("label rule", self.label), ("switch", self.switch)]
        functions += [(f"source {name!r}", source) for name, source in self.sources.items()]
        if self.metric is not None:
            functions.append(("metric", self.metric))
        for what, function in functions:
            if not callable(function):
                raise AxisError(
                    f"The {what} of axis {self.name!r} is a {type(function).__name__}, "
                    "not a function."
                )

    def licence_of(self, source: str) -> str | None:
        """Return the licence of a source's data; None if nobody stated one."""
        found = self.sources[source]
        return found.licence if isinstance(found, LicensedSource) else self.licence

    @property
    def licences(self) -> tuple[str, ...]:
        """Return the licences of all sources, each once."""
        found = (self.licence_of(source) for source in self.sources)
        return tuple(dict.fromkeys(licence for licence in found if licence))


def _is_line(text: object) -> bool:
    """Whether a value is text that a table and a JSON document can hold."""
    if not isinstance(text, str) or len(text.splitlines()) > 1:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)
