"""Finding versions by words, tags, notes, bases and numbers that were measured.

A metric is a number in a measurement or in the metadata, at any depth. It is named by its dotted
path (`geometry.norm`, `poles.plus.accuracy`; a measurement's path begins with its kind) or by the
last component or components of the path. Several numbers may bear one name: a version is found
where any of them meets the condition.
"""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefreg.errors import UsageError
from prefreg.registry.records import VersionRecord

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_METRIC = re.compile(
    r"\s*([^<>=\s]+)\s*(>=|<=|>|<|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)


@dataclass(frozen=True, slots=True)
class MetricCondition:
    """A bound on a number."""

    name: str
    operator: str
    bound: float

    def holds(self, record: VersionRecord) -> bool:
        """Whether a number of this name in the record meets the bound."""
        holds = _OPERATORS[self.operator]
        suffix = f".{self.name}"
        return any(
            (path == self.name or path.endswith(suffix)) and holds(value, self.bound)
            for path, value in numbers(record)
        )


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
    """Words that all occur in its name, aliases, tags, note or base."""
    tags: Sequence[str] = ()
    note: str | None = None
    """Words that all occur in the note."""
    base: str | None = None
    """Part of the base's name, or the beginning of its fingerprint."""
    metrics: Sequence[MetricCondition] = ()

    def matches(self, record: VersionRecord) -> bool:
        """Whether a version meets every condition; upper and lower case are the same."""
        everything = " ".join(
            (
                str(record),
                *record.axis_aliases,
                *record.aliases,
                *record.tags,
                record.note or "",
                record.base.name,
            )
        )
        base = (self.base or "").casefold()
        return (
            _has_words(everything, self.text)
            and set(self.tags) <= set(record.tags)
            and _has_words(record.note or "", self.note)
            and (base in record.base.name.casefold() or record.base.weights.startswith(base))
            and all(condition.holds(record) for condition in self.metrics)
        )


def _has_words(text: str, words: str | None) -> bool:
    return all(word in text.casefold() for word in (words or "").casefold().split())
