"""Axes that a YAML file declares: what it says key by key, its rules and its sources of rows."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from prefreg.axes.answer_texts import word_count
from prefreg.axes.axis import (
    PROMPT_NAMES,
    Axis,
    LicensedSource,
    PreferencePair,
    Row,
    Source,
    SourceRequest,
    SourceRows,
)
from prefreg.axes.row_sources import PLACE, ROW_FILES, is_row_file, read_rows, stream_hub_rows
from prefreg.axes.yaml_asking import AskingReader, read_metric
from prefreg.axes.yaml_lines import Value, read_root, read_text
from prefreg.errors import DataError
from prefreg.files import hash_bytes
from prefreg.terms import AXIS_NAME

KEYS = (
    "name",
    "summary",
    "aliases",
    "licence",
    "metric",
    "sources",
    "contrast",
    "sample",
    "columns",
    "where",
    "rule",
    "min_gap",
    "strings",
)
SOURCE_KEYS = (
    "name",
    "hub",
    "config",
    "split",
    "revision",
    "file",
    "contrast",
    "sample",
    "on_policy",
    "weight",
    "licence",
    "columns",
    "where",
)
RESPONSES = ("prompt", "response_0", "response_1")
STRINGS = ("verbatim", "turns")
"""What strings are: text as it stands, or a question of the user with the assistant's answers."""
WITH_GAP = ("higher-rating", "longer")

_ANSWERS = ("chosen", "rejected", *RESPONSES[1:])
_TOLD = ("tools", "chat_template_kwargs")
_CARRIED = (*_TOLD, "image", "images")
"""What a row keeps under its own name: a pair is made with it, or refused for it."""
_HUB_ONLY = ("config", "split", "revision")
_ASKING = ("contrast", "sample")
"""Sources that ask the base for both answers."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Declaration:
    """An axis that a YAML file declares, with the file as it was."""

    axis: Axis
    path: Path
    text: str
    sha256: str

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return self.path.name

    def to_json(self) -> dict[str, str]:
        """Return all from which the axis is declared again."""
        path = str(self.path.resolve())
        return {"file": self.file, "path": path, "sha256": self.sha256, "text": self.text}


def axis_from_yaml(path: str | Path) -> Axis:
    """Read the axis that a YAML file declares; nothing of its data is read.

    Raises:
        AxisError: The file declares no axis; the message names the line.
    """
    return read_declaration(Path(path)).axis


def read_declaration(path: Path, text: str | None = None) -> Declaration:
    """Read an axis from a YAML file, or from the text that it had; nothing of its data is read."""
    text = read_text(path) if text is None else text
    axis = _Reader(read_root(text, path), path).axis()
    return Declaration(axis, path, text, hash_bytes(text.encode()))


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to tell the better of two answers."""

    columns: tuple[str, ...]
    decide: Callable[[Row, float], PreferencePair | None]
    """Make the pair, given the smallest gap that decides; None is a tie."""
    strings: str = "turns"
    """What strings are where nobody says it."""
    optional: tuple[str, ...] = ()
    """Those of its columns that a row may lack."""


def label_by(
    rule: Rule, min_gap: float, strings: str | None = None
) -> Callable[[Row], PreferencePair | None]:
    """Make the label rule of an axis; what is wrong with a row is told with its place."""
    turns = (strings or rule.strings) == "turns"

    def label(row: Row) -> PreferencePair | None:
        try:
            return rule.decide(_asked(row) if turns else row, min_gap)
        except DataError as error:
            raise DataError(f"{row[PLACE]}: {error}") from error

    return label


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a source count, and what its columns mean."""

    columns: Mapping[str, str]
    """What a rule asks for, and the column that has it."""
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Columns, with the values that a row may have there."""
    optional: tuple[str, ...] = ()
    """What is taken under its own name where a row has it."""

    def apply(self, rows: Iterable[tuple[str, Row]], limit: int | None) -> Iterator[Row]:
        """Rename the columns of the first rows that count."""
        return islice(self._apply(rows), limit)

    def _apply(self, rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
        wanted = dict.fromkeys((*self.where, *self.columns.values()))
        for place, row in rows:
            if missing := [column for column in wanted if column not in row]:
                raise DataError(
                    f"{place}: column {', '.join(map(repr, missing))} is missing "
                    f"(found: {', '.join(map(str, row)) or 'none'})"
                )
            if all(_is_one(row[column], values) for column, values in self.where.items()):
                yield {
                    **{name: row[name] for name in self.optional if name in row},
                    **{name: row[column] for name, column in self.columns.items()},
                    PLACE: place,
                }


def _is_one(value: object, values: tuple[object, ...]) -> bool:
    """Whether a row's value is one of those that are let through; in a table all are texts."""
    return value in values or (isinstance(value, str) and value in map(str, values))


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on the Hugging Face Hub."""

    dataset: str
    selection: Selection
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    def load(self, request: SourceRequest) -> SourceRows:
        """Stream the rows that count, at the revision asked for, else at the file's."""
        # How many rows must be read for so many that count, nobody knows.
        limit = None if self.selection.where else request.limit
        found = stream_hub_rows(
            self.dataset,
            split=self.split,
            name=self.config,
            request=SourceRequest(limit, request.revision or self.revision, request.seed),
        )
        placed = (
            (f"{self.dataset}, row {number}", row) for number, row in enumerate(found.rows, start=1)
        )
        return SourceRows(self.selection.apply(placed, request.limit), found.origin, found.revision)


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of rows."""

    path: Path
    selection: Selection

    def load(self, request: SourceRequest) -> SourceRows:
        """Read the rows that count."""
        placed = ((f"{self.path.name}:{line}", row) for line, row in read_rows(self.path))
        return SourceRows(self.selection.apply(placed, request.limit), self.path.name)


class _Reader:
    """Reads one file; the keys at the top are the defaults of those in a source."""

    def __init__(self, root: Value, path: Path) -> None:
        self.root = root
        self.folder = path.parent
        self.top = root.mapping(KEYS)
        asking = [key for key in _ASKING if key in self.top]
        for key in ("name", "summary", *(() if asking else ("sources",))):
            if key not in self.top:
                root.refuse(f"key {key!r} is missing")
        if asking and "sources" in self.top:
            self.top[asking[0]].refuse(f"beside 'sources', {asking[0]!r} stands in one of them")
        self.rule_name = _choice(self.top.get("rule"), RULES, "preference")
        self.rule = RULES[self.rule_name]
        self.metric = read_metric(self.top["metric"]) if "metric" in self.top else None
        self.asking = AskingReader(path.parent, self.metric)

    def axis(self) -> Axis:
        name = _axis_name(self.top["name"])
        aliases = self._aliases(name)
        sources: dict[str, Source] = {}
        default: list[str] = []
        weights: list[float | None] = []
        for item, fields in self._items():
            source, title = self._source(item, fields)
            if title in sources:
                item.refuse(f"a second source {title!r}: give one of them another 'name'")
            sources[title] = source
            weight = _weight(fields.get("weight"))
            if weights and (weight is None) != (weights[0] is None):
                item.refuse("give every source a 'weight', or none")
            weights.append(weight)
            default.append(title if weight is None else f"{title}:{weight!r}")
        if not sources:
            self.top["sources"].refuse("'sources' is an empty list")
        return Axis(
            name=name,
            summary=self.top["summary"].text(),
            sources=sources,
            label=label_by(
                self.rule,
                self._min_gap(),
                _choice(self.top.get("strings"), STRINGS, self.rule.strings),
            ),
            aliases=aliases,
            metric=self.metric,
            licence=self._licence(self.top),
            owner=self.root.file.name,
            default_data=tuple(default) if len(default) > 1 else (),
        )

    def _aliases(self, name: str) -> tuple[str, ...]:
        found: list[str] = []
        for item in self.top["aliases"].items() if "aliases" in self.top else ():
            alias = _axis_name(item)
            if alias == name or alias in found:
                item.refuse(f"the name {alias!r} stands here twice")
            found.append(alias)
        return tuple(found)

    def _min_gap(self) -> float:
        value = self.top.get("min_gap")
        if value is None:
            return 0.0
        if self.rule_name not in WITH_GAP:
            value.refuse(f"the rule {self.rule_name!r} knows no 'min_gap'")
        gap = value.number()
        if not 0 <= gap < float("inf"):
            value.refuse(f"'min_gap' must not be negative, and {gap} decides nothing")
        return gap

    def _items(self) -> Iterator[tuple[Value, dict[str, Value]]]:
        """Yield the sources, each with its keys; one alone may stand at the top."""
        if "sources" in self.top:
            for item in self.top["sources"].items():
                yield item, item.mapping(SOURCE_KEYS)
        else:
            for key in _ASKING:
                if key in self.top:
                    yield self.top[key], {key: self.top[key]}

    def _source(self, item: Value, fields: Mapping[str, Value]) -> tuple[Source, str]:
        kinds = [key for key in ("hub", "file", *_ASKING) if key in fields]
        if len(kinds) != 1:
            item.refuse("a source needs either 'hub' or 'file', or 'contrast' or 'sample'")
        (kind,) = kinds
        licence = self._licence(fields) or self._licence(self.top)
        made: Source
        if kind in _ASKING:
            made, of, title = self._asking(kind, fields, licence), kind, kind
        else:
            made, of, title = self._rows(fields)
        if "name" in fields:
            title = _axis_name(fields["name"])
        else:
            title = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "rows"
        return made if licence is None else LicensedSource(made, of, licence), title

    def _asking(self, kind: str, fields: Mapping[str, Value], licence: str | None) -> Source:
        """Read a source that asks the base for both answers."""
        self._refuse_other_rules(fields[kind])
        for key in (*_HUB_ONLY, "columns", "where", "on_policy"):
            if key in fields:
                fields[key].refuse(f"{key!r} belongs to a source of rows, not to {kind!r}")
        if kind == "contrast":
            return self.asking.contrast(fields[kind], licence)
        return self.asking.sample(fields[kind], licence)

    def _refuse_other_rules(self, value: Value) -> None:
        if self.rule_name != "preference":
            value.refuse(f"{value.key!r} says itself which answer is chosen: leave 'rule' out")

    def _rows(self, fields: Mapping[str, Value]) -> tuple[Source, str, str]:
        """Read a source of rows; say what a licence is of, and what the source is called."""
        columns = self._columns(fields)
        own = fields.get("on_policy")
        if own is not None:
            self._refuse_other_rules(own)
            columns = {"prompt": "prompt", **columns}
        optional = (*self.rule.optional, *_CARRIED, *(() if "prompt" in columns else PROMPT_NAMES))
        made: HubSource | FileSource
        selection = Selection(columns, self._where(fields), optional)
        if "file" in fields:
            for key in _HUB_ONLY:
                if key in fields:
                    fields[key].refuse(f"{key!r} belongs to a source on the hub, not to a file")
            made = FileSource(self._file(fields["file"]), selection)
            of, title = made.path.name, made.path.name.partition(".")[0]
        else:
            texts = {key: fields[key].text() for key in _HUB_ONLY if key in fields}
            made = HubSource(_hub_id(fields["hub"]), selection, **texts)
            of, title = made.dataset, made.dataset.rpartition("/")[2]
        if own is None:
            return made.load, of, title
        verbatim = "strings" in self.top and self.top["strings"].text() == "verbatim"
        source = self.asking.on_policy(own, made.load, verbatim=verbatim)
        columns.pop(source.side, None)  # the base writes it
        return source, of, title

    def _file(self, value: Value) -> Path:
        path = self.folder / value.text()
        if not is_row_file(path):
            value.refuse(f"{path.name!r} is no file of rows (they end in {', '.join(ROW_FILES)})")
        if not path.is_file():
            value.refuse(f"there is no file {path}")
        return path

    def _columns(self, fields: Mapping[str, Value]) -> dict[str, str]:
        known = (*self.rule.columns, "group", *_TOLD)
        columns = {name: name for name in self.rule.columns if name not in self.rule.optional}
        for holder in (self.top, fields):
            if "columns" in holder:
                found = holder["columns"].mapping(known)
                columns |= {name: value.text() for name, value in found.items()}
        return columns

    def _where(self, fields: Mapping[str, Value]) -> dict[str, tuple[object, ...]]:
        where: dict[str, tuple[object, ...]] = {}
        for holder in (self.top, fields):
            for key, value in holder["where"].pairs() if "where" in holder else ():
                allowed = value.items() if value.is_list() else [value]
                if not allowed:
                    value.refuse("an empty list lets no row through")
                where[key.text()] = tuple(item.scalar() for item in allowed)
        return where

    @staticmethod
    def _licence(fields: Mapping[str, Value]) -> str | None:
        return fields["licence"].text() if "licence" in fields else None


def _axis_name(value: Value) -> str:
    name = value.text()
    if not AXIS_NAME.fullmatch(name):
        value.refuse(
            f"{name!r} is no name: use a lower-case letter, then letters, digits, '_' or '-'"
        )
    return name


def _choice(value: Value | None, known: Collection[str], default: str) -> str:
    if value is None:
        return default
    name = value.text()
    if name not in known:
        value.refuse_unknown(value.key, name, known)
    return name


def _hub_id(value: Value) -> str:
    name = value.text()
    if not _HUB_ID.fullmatch(name):
        value.refuse(f"{name!r} is no data set of the hub: write owner/name")
    return name


def _weight(value: Value | None) -> float | None:
    if value is None:
        return None
    weight = value.number()
    if not 0 < weight < float("inf"):
        value.refuse(f"'weight' must be above zero, not {weight}")
    return weight


def _preference(row: Row, _: float) -> PreferencePair:
    return _pair(row, row["chosen"], row["rejected"])


def _higher_rating(row: Row, min_gap: float) -> PreferencePair | None:
    first, second = (_rating(row[name], name) for name in ("rating_0", "rating_1"))
    if first is None or second is None or first == second or abs(first - second) < min_gap:
        return None
    return _winner(row, 0 if first > second else 1)


def _numbered(row: Row, _: float) -> PreferencePair | None:
    index = row["winner"]
    if isinstance(index, str) and index.strip() in ("0", "1"):  # a table of texts
        index = int(index)
    if isinstance(index, float) and index.is_integer():
        index = int(index)
    if index is not None and not isinstance(index, int):
        raise DataError(f"column 'winner' holds {index!r:.60}, not the number of a response")
    return _winner(row, int(index)) if index in (0, 1) else None


def _longer(row: Row, min_gap: float) -> PreferencePair | None:
    pair = _winner(row, 0)
    gap = word_count(pair.chosen) - word_count(pair.rejected)
    if gap == 0 or abs(gap) < min_gap:
        return None
    return pair if gap > 0 else pair.switched()


def _winner(row: Row, index: int) -> PreferencePair:
    return _pair(row, row[f"response_{index}"], row[f"response_{1 - index}"])


def _pair(row: Row, chosen: object, rejected: object) -> PreferencePair:
    answers = {"chosen": chosen, "rejected": rejected}
    return PreferencePair.from_row({**row, **answers})


def _asked(row: Row) -> Row:
    """Make a question of the user of a prompt in a string whose answers are strings."""
    if not all(isinstance(row[name], str) for name in _ANSWERS if name in row):
        return row
    prompt = row.get("prompt")
    if prompt is None:
        raise DataError("column 'prompt' is missing")
    if not isinstance(prompt, str):
        return row
    if not prompt.strip():
        raise DataError("column 'prompt' is empty")
    return {**row, "prompt": [{"role": "user", "content": prompt}]}


def _rating(value: Any, column: str) -> float | None:
    """Read a number, also one in a string; None and "N/A" are no rating."""
    if value is None or value in ("", "N/A"):
        return None
    try:
        rating = float(value)
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    if not math.isfinite(rating):
        raise DataError(f"column {column!r} holds {value!r:.60}, not a rating")
    return rating


RULES: Mapping[str, Rule] = {
    "preference": Rule(("prompt", "chosen", "rejected"), _preference, "verbatim", ("prompt",)),
    "higher-rating": Rule((*RESPONSES, "rating_0", "rating_1"), _higher_rating),
    "numbered": Rule((*RESPONSES, "winner"), _numbered),
    "longer": Rule(RESPONSES, _longer),
}
