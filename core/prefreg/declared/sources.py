"""The sources of a YAML axis: a data set on the hub, or a file beside the YAML."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from prefreg.axes import LicensedSource, Row, Source, SourceRequest, SourceRows
from prefreg.data.files import read_rows
from prefreg.data.hub import stream_hub_rows
from prefreg.declared.rules import PLACE
from prefreg.errors import DataError


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a source count, and what its columns mean."""

    columns: Mapping[str, str]
    """What a rule asks for, and the column that has it."""
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Columns, with the values that a row may have there."""

    def apply(self, rows: Iterable[tuple[str, Row]], limit: int | None) -> Iterator[Row]:
        """Rename the columns of the first rows that count.

        Raises:
            DataError: A row lacks a column; the message names its place.
        """
        return islice(self._apply(rows), limit)

    def _apply(self, rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
        wanted = dict.fromkeys((*self.where, *self.columns.values()))
        for place, row in rows:
            if missing := [column for column in wanted if column not in row]:
                raise DataError(
                    f"{place}: column {', '.join(map(repr, missing))} is missing "
                    f"(found: {', '.join(map(str, row)) or 'none'})"
                )
            if all(row[column] in values for column, values in self.where.items()):
                yield {
                    **{name: row[column] for name, column in self.columns.items()},
                    PLACE: place,
                }


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
    """A file of JSON lines."""

    path: Path
    selection: Selection

    def load(self, request: SourceRequest) -> SourceRows:
        """Read the rows that count."""
        placed = ((f"{self.path.name}:{line}", row) for line, row in read_rows(self.path))
        return SourceRows(self.selection.apply(placed, request.limit), self.path.name)


def licensed(source: HubSource | FileSource, licence: str | None) -> Source:
    """Make the source of an axis, with its licence if there is one."""
    if licence is None:
        return source.load
    of = source.dataset if isinstance(source, HubSource) else source.path.name
    return LicensedSource(source.load, of, licence)
