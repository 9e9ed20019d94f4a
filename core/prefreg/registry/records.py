"""What enters and leaves the registry: plain values, never rows or sessions."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any, Literal

from prefreg.errors import UsageError
from prefreg.files import human_size
from prefreg.json_values import JsonFields, fields_to_json
from prefreg.terms import Term

INLINE_LIMIT = 4 * 1024 * 1024
"""Vectors of at most this many bytes live inside the database."""

GRACE = 24 * 3600
"""Bytes in a store that no version has yet are left for so many seconds."""

FORM_OF = "form-of/"
"""Begins the tag of a version that is another form of one, whose number follows: `form-of/1`."""

Kind = Literal["dense", "low-rank", "int8", "sparse"]
StorageDtype = Literal["F32", "BF16", "I8"]
Contrast = Literal["pair", "positive-only"]
AliasAction = Literal["set", "moved", "deleted", "removed"]


@dataclass(frozen=True, slots=True)
class BaseIdentity(JsonFields):
    """A base model: what it was called, where it lay, and what it holds."""

    name: str
    revision: str | None
    path: str | None
    """Its folder, or None where it is found by its name alone."""
    weights: str
    """The fingerprint of its weights, which is its identity."""
    tokenizer: str | None
    template: str | None
    parameters: int
    dtype: str


@dataclass(frozen=True, slots=True)
class BaseRecord(BaseIdentity):
    """A base model that the registry knows."""

    created: datetime


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to be added; the registry gives it its number."""

    axis: str
    axis_aliases: tuple[str, ...]
    kind: Kind
    dtype: StorageDtype
    base: BaseIdentity
    metadata: dict[str, Any] = field(default_factory=dict)
    """The full record of its training, as JSON."""
    note: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement(JsonFields):
    """Something learned about a version after it was added."""

    kind: str
    value: Any
    protocol: str
    """How it was measured."""
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """A version of an axis' preference vector, without the record of its training."""

    axis: str
    number: int
    axis_aliases: tuple[str, ...]
    """The axis' aliases as they were when the version was added."""
    aliases: tuple[str, ...]
    """The version aliases that point here now."""
    kind: str
    dtype: str
    sha256: str
    size: int
    inline: bool = True
    """Whether the bytes lie inside the database, not in a file beside it."""
    base: BaseRecord
    """The base as it was when the version was added, at the place where it was last seen."""
    note: str | None
    created: datetime
    tags: tuple[str, ...] = ()
    starter: bool = False
    """Whether it ships with prefreg and lies beneath the registry, which does not hold it."""

    def __str__(self) -> str:
        return f"{self.axis}@{self.number}"

    @property
    def form_of(self) -> str | None:
        """Return the version that this is another form of; a bare name never means a form."""
        numbers = [tag.removeprefix(FORM_OF) for tag in self.tags if tag.startswith(FORM_OF)]
        return f"{self.axis}@{numbers[0]}" if numbers else None

    def __repr__(self) -> str:
        held = f"{self.kind} {self.dtype}, {human_size(self.size)}"
        return f"<{type(self).__name__} {self}: {held}, on {self.base.name}>"

    def summary(self) -> dict[str, Any]:
        """Return the version without its training record, in a form that JSON can hold."""
        return {
            "axis": self.axis,
            "version": self.number,
            "axis_aliases": list(self.axis_aliases),
            "aliases": list(self.aliases),
            "kind": self.kind,
            "dtype": self.dtype,
            "sha256": self.sha256,
            "size": self.size,
            "inline": self.inline,
            "base": {"name": self.base.name, "weights": self.base.weights},
            "created": self.created.isoformat(),
            "note": self.note,
            "tags": list(self.tags),
            "starter": self.starter,
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VersionRecord(VersionSummary):
    """A version with all that is known of it."""

    metadata: dict[str, Any]
    measurements: tuple[Measurement, ...]

    @property
    def contrast(self) -> Contrast:
        """What φ is the difference of: the two poles, or the positive one and the base."""
        return "positive-only" if self.metadata.get("contrast") == "positive-only" else "pair"

    @property
    def template_options(self) -> dict[str, Any] | None:
        """What its run told the chat template of all rows; None where no template wrote them."""
        if "chat" not in (self.metadata.get("data") or {}).get("renderings", ()):
            return None
        return dict((self.metadata.get("training") or {}).get("template_options") or {})

    def to_json(self) -> dict[str, Any]:
        """Return all that is known of the version in a form that JSON can hold."""
        return self.summary() | {
            "base": self.base.to_json(),
            "metadata": self.metadata,
            "measurements": [each.to_json() for each in self.measurements],
        }


@dataclass(frozen=True, slots=True)
class Copied:
    """A version in its new registry, and whether it had to be added."""

    record: VersionRecord
    registry: str
    """Where it is now, without a password."""
    added: bool


@dataclass(frozen=True, slots=True)
class AliasEvent:
    """One change of a version alias; the latest event of an alias says where it points."""

    axis: str
    base: BaseRecord
    alias: str
    number: int | None
    """The version it points to from now on, or None where it is gone."""
    created: datetime
    action: AliasAction

    def to_json(self) -> dict[str, Any]:
        """Return the change in a form that JSON can hold."""
        return {
            "alias": self.alias,
            "action": self.action,
            "version": self.number,
            "base": self.base.name,
            "created": self.created.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Preset:
    """A version of a named setting."""

    name: str
    number: int
    terms: tuple[Term, ...]
    """Ordered by axis; none is a preset."""
    note: str | None
    created: datetime

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    def to_json(self) -> dict[str, Any]:
        """Return the preset in a form that JSON can hold."""
        return {
            "name": self.name,
            "version": self.number,
            "terms": list(map(str, self.terms)),
            "note": self.note,
            "created": self.created.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a registry: what, with which thing, and what to do."""

    what: str
    thing: str
    advice: str

    def __str__(self) -> str:
        return f"{self.thing}: {self.what}. {self.advice}"


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection removed."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a registry takes on the disk, in bytes."""

    database: int
    """The database itself, with the vectors inside it."""
    files: int
    """The number of files beside it, with those that no version needs."""
    beside: int
    """The bytes of these files."""

    @property
    def total(self) -> int:
        """The database and the files beside it."""
        return self.database + self.beside

    def to_json(self) -> dict[str, int]:
        """Return the sizes in a form that JSON can hold."""
        return fields_to_json(self) | {"total": self.total}


Moment = str | datetime
"""`2026-11-01` is the end of that day; without a time zone, UTC is meant."""

_END = time(23, 59, 59, 999_999, tzinfo=UTC)


def as_moment(moment: Moment | None) -> datetime | None:
    """Read a moment from text, or take it as it is."""
    if isinstance(moment, str):
        return parse_moment(moment)
    return moment.replace(tzinfo=UTC) if moment is not None and not moment.tzinfo else moment


def parse_moment(text: str) -> datetime:
    """Read `2026-11-01`, which is the end of that day, or `2026-11-01T12:30`; in UTC."""
    try:
        return datetime.combine(date.fromisoformat(text), _END)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no date: write YYYY-MM-DD, or YYYY-MM-DDTHH:MM for a moment, in UTC."
        ) from error


def describe_moment(moment: datetime) -> str:
    """Write a moment as briefly as it was meant."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d}" if moment.timetz() == _END else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
