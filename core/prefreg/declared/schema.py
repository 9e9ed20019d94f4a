"""What a YAML axis says, key by key."""

import difflib
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefreg.axes import AXIS_NAME, Axis, Source
from prefreg.declared.document import Value, read_document
from prefreg.declared.rules import RULES, WITH_GAP, label_by
from prefreg.declared.sources import FileSource, HubSource, Selection, licensed

KEYS = (
    "name",
    "summary",
    "aliases",
    "licence",
    "sources",
    "columns",
    "where",
    "rule",
    "min_gap",
)
SOURCE_KEYS = (
    "name",
    "hub",
    "config",
    "split",
    "revision",
    "file",
    "weight",
    "licence",
    "columns",
    "where",
)
_HUB_ONLY = ("config", "split", "revision")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Declaration:
    """An axis that a YAML file declares, with the file as it was."""

    axis: Axis
    file: str
    text: str
    sha256: str


def read_declaration(path: Path) -> Declaration:
    """Read an axis from a YAML file; nothing of its data is read.

    Raises:
        AxisError: The file declares no axis; the message names the line.
    """
    text, root = read_document(path)
    axis = _Reader(root, path).axis()
    return Declaration(axis, path.name, text, hashlib.sha256(text.encode()).hexdigest())


class _Reader:
    """Reads one file; the keys at the top are the defaults of those in a source."""

    def __init__(self, root: Value, path: Path) -> None:
        self.root = root
        self.folder = path.parent
        self.top = root.mapping(KEYS)
        for key in ("name", "summary", "sources"):
            if key not in self.top:
                root.refuse(f"key {key!r} is missing")
        self.rule_name = _choice(self.top.get("rule"), RULES, "preference")
        self.rule = RULES[self.rule_name]

    def axis(self) -> Axis:
        name = _axis_name(self.top["name"])
        aliases = self._aliases(name)
        sources: dict[str, Source] = {}
        default: list[str] = []
        weights: list[float | None] = []
        for item in self.top["sources"].items():
            fields = item.mapping(SOURCE_KEYS)
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
            label=label_by(self.rule, self._min_gap()),
            aliases=aliases,
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

    def _source(self, item: Value, fields: Mapping[str, Value]) -> tuple[Source, str]:
        if ("hub" in fields) == ("file" in fields):
            item.refuse("a source needs either 'hub' or 'file'")
        selection = Selection(self._columns(fields), self._where(fields))
        licence = self._licence(fields) or self._licence(self.top)
        made: HubSource | FileSource
        if "file" in fields:
            for key in _HUB_ONLY:
                if key in fields:
                    fields[key].refuse(f"{key!r} belongs to a source on the hub, not to a file")
            made = FileSource(self._file(fields["file"]), selection)
            title = made.path.name.partition(".")[0]
        else:
            texts = {key: fields[key].text() for key in _HUB_ONLY if key in fields}
            made = HubSource(_hub_id(fields["hub"]), selection, **texts)
            title = made.dataset.rpartition("/")[2]
        if "name" in fields:
            title = _axis_name(fields["name"])
        else:
            title = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "rows"
        return licensed(made, licence), title

    def _file(self, value: Value) -> Path:
        path = self.folder / value.text()
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            value.refuse(f"{path.name!r} is neither a .jsonl nor a .jsonl.gz file")
        if not path.is_file():
            value.refuse(f"there is no file {path}")
        return path

    def _columns(self, fields: Mapping[str, Value]) -> dict[str, str]:
        known = (*self.rule.columns, "group")
        columns = {name: name for name in self.rule.columns}
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
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(known)})"
        value.refuse(f"unknown {value.key} {name!r}{hint}")
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
