"""What an axis is: preference pairs, where their rows come from, and how they are labelled."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from prefreg.errors import AxisError, DataError
from prefreg.terms import AXIS_NAME

Row = Mapping[str, Any]
"""One row of a data set: column name to value."""


class Message(NamedTuple):
    """One turn of a dialogue."""

    role: str
    content: str


Text = str | tuple[Message, ...]
"""Plain text, used verbatim, or messages, rendered through the base's chat template."""


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
        """Read a row of TRL's preference format (`prompt`, `chosen`, `rejected`).

        Raises:
            DataError: A column is missing, empty or of another shape.
        """
        missing = [column for column in ("prompt", "chosen", "rejected") if column not in row]
        if missing:
            raise DataError(
                f"column {', '.join(map(repr, missing))} is missing "
                f"(found: {', '.join(sorted(row)) or 'none'})"
            )
        prompt, chosen, rejected = (
            _read_text(row[column], column) for column in ("prompt", "chosen", "rejected")
        )
        if not isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
            chosen, rejected = (Message("assistant", chosen),), (Message("assistant", rejected),)
        if len({isinstance(text, str) for text in (prompt, chosen, rejected)}) > 1:
            raise DataError("'prompt', 'chosen' and 'rejected' mix strings and message lists")
        group = row.get("group")
        return cls(prompt, chosen, rejected, None if group is None else str(group))

    def switched(self) -> Self:
        """Exchange chosen and rejected: the pair that the negative pole is trained on."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)


def plain_text(text: Text) -> str:
    """Join the contents of messages without separators; a string is returned as it is."""
    return text if isinstance(text, str) else "".join(message.content for message in text)


def word_count(text: Text) -> int:
    """Count the words of a text, messages joined."""
    return len(plain_text(text).split())


def _read_text(value: object, column: str) -> Text:
    if isinstance(value, str):
        text: Text = value
    elif isinstance(value, Sequence) and value:
        text = tuple(read_message(item, column) for item in value)
    else:
        raise DataError(f"column {column!r} is neither a string nor a list of messages")
    if not plain_text(text).strip():
        raise DataError(f"column {column!r} is empty")
    return text


def read_message(item: object, column: str) -> Message:
    """Read a message of a dialogue."""
    if not isinstance(item, Mapping) or not all(
        isinstance(item.get(key), str) for key in ("role", "content")
    ):
        raise DataError(f"column {column!r} has a message without 'role' and 'content' strings")
    return Message(item["role"], item["content"])


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What a source is asked for."""

    limit: int | None = None
    """At most this many rows."""
    revision: str | None = None
    """The data set revision to pin; the newest if absent."""
    seed: int = 0


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
