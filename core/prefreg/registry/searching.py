"""Finding versions by words, tags, notes, bases and numbers that were measured.

A metric is a number in a measurement or in the metadata, at any depth. It is named by its dotted
path (`geometry.norm`, `poles.plus.accuracy`; a measurement's path begins with its kind) or by the
last component or components of the path. Several numbers may bear one name: a version is found
where any of them meets the condition.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefreg.errors import UsageError
from prefreg.registry.listing import load_summaries, load_versions
from prefreg.registry.records import VersionRecord, VersionSummary
from prefreg.registry.schema import TagRow, VersionRow
from prefreg.registry.tags import check_tags

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_METRIC = re.compile(
    r"\s*([^<>=\s]+)\s*(>=|<=|==|>|<|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)


@dataclass(frozen=True, slots=True)
class MetricCondition:
    """A bound on a number."""

    name: str
    operator: str
    bound: float

    def find(self, record: VersionRecord) -> dict[str, float]:
        """Return the numbers of this name in the record that meet the bound, by their paths."""
        holds = _OPERATORS[self.operator]
        suffix = f".{self.name}"
        return {
            path: value
            for path, value in numbers(record)
            if (path == self.name or path.endswith(suffix)) and holds(value, self.bound)
        }


def parse_metric(text: str) -> MetricCondition:
    """Read `NAME>=0.7`.

    Raises:
        UsageError: It is malformed.
    """
    found = _METRIC.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r} is no condition on a metric: write NAME, one of >=, <=, >, <, =, "
            "then a number, as in 'accuracy>=0.7'."
        )
    return MetricCondition(found[1], found[2], float(found[3]))


def numbers(record: VersionRecord) -> Iterator[tuple[str, float]]:
    """Return every number of a version with its dotted path."""
    yield from _numbers(record.metadata, "")
    for measurement in record.measurements:
        yield from _numbers(measurement.value, measurement.kind)


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


@dataclass(frozen=True, slots=True)
class Query:
    """What a version must have; every given condition must hold."""

    text: str | None = None
    """Words that all occur in its name, aliases, tags, note or base, in upper or lower case."""
    tags: Sequence[str] = ()
    note: str | None = None
    """Words that all occur in the note."""
    base: str | None = None
    """Part of the base's name, or the beginning of its fingerprint."""
    metrics: Sequence[MetricCondition] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A version that meets a query, and the numbers that met its bounds."""

    version: VersionSummary
    metrics: Mapping[str, float]


def find_versions(session: Session, query: Query) -> list[Found]:
    """Return the versions that meet a query, ordered by axis and number.

    Raises:
        UsageError: A tag is malformed.
    """
    tags = check_tags(query.tags)
    if tags and not session.info.get("has_tags", True):
        return []  # a registry that is older than tags
    tagged = [
        VersionRow.id.in_(select(TagRow.version_id).where(TagRow.name == tag)) for tag in tags
    ]
    if not query.metrics:
        summaries = load_summaries(session, *tagged)
        return [Found(version, {}) for version in summaries if _matches(version, query)]
    found = []
    for record in load_versions(session, *tagged):
        metrics = [condition.find(record) for condition in query.metrics]
        if all(metrics) and _matches(record, query):
            found.append(Found(record, {k: v for each in metrics for k, v in each.items()}))
    return found


def _matches(version: VersionSummary, query: Query) -> bool:
    everything = " ".join(
        (
            str(version),
            *version.axis_aliases,
            *version.aliases,
            *version.tags,
            version.note or "",
            version.base.name,
        )
    )
    base = (query.base or "").casefold()
    return (
        _has_words(everything, query.text)
        and _has_words(version.note or "", query.note)
        and (base in version.base.name.casefold() or version.base.weights.startswith(base))
    )


def _has_words(text: str, words: str | None) -> bool:
    return all(word in text.casefold() for word in (words or "").casefold().split())
