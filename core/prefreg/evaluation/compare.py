"""Two versions side by side: what differs in their records, and the angle between their vectors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefreg.registry import Access, Store, VersionRecord

GROUPS = ("version", "base", "data", "settings", "seeds", "metrics", "geometry", "hashes")
"""What is always compared, in this order; the rest of the metadata follows by its own names."""

Reference = tuple[str, str | None]

_HASHES = frozenset({"sha256", "fingerprint", "weights", "tokenizer", "template"})


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A value that two versions do not share; None also where one has no such field."""

    group: str
    field: str
    """Its dotted path in the record."""
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions side by side."""

    first: VersionRecord
    second: VersionRecord
    differences: tuple[FieldDifference, ...]
    cosine: float | None
    """Between the vectors; None where it is not defined."""
    reason: str | None
    """Why there is no cosine."""

    @property
    def agreeing(self) -> tuple[str, ...]:
        """The groups in which nothing differs."""
        differing = {difference.group for difference in self.differences}
        return tuple(group for group in GROUPS if group not in differing)


def compare_versions(access: Access, first: Reference, second: Reference) -> Comparison:
    """Compare two versions."""
    with access.reading() as store:
        one, two = store.resolve(*first), store.resolve(*second)
        cosine, reason = _cosine(store, one, two)
    return Comparison(one, two, tuple(_differences(one, two)), cosine, reason)


def _cosine(
    store: Store, first: VersionRecord, second: VersionRecord
) -> tuple[float | None, str | None]:
    if first.base.weights != second.base.weights:
        return None, "the vectors belong to different bases"
    sources = [store.vector_source(record) for record in (first, second)]
    from prefreg.vectors import open_vector  # torch is loaded only where there is an angle
    from prefreg.vectors.algebra import dot, norm

    one, two = (
        open_vector(source, kind=record.kind, label=f"The vector of {record}")
        for source, record in zip(sources, (first, second), strict=True)
    )
    lengths = norm(one) * norm(two)
    return (dot(one, two, sparse=True) / lengths, None) if lengths else (None, "a vector is zero")


def _differences(first: VersionRecord, second: VersionRecord) -> Iterator[FieldDifference]:
    one, two = dict(_fields(first)), dict(_fields(second))
    found = [
        FieldDifference(_group_of(path), path, one.get(path), two.get(path))
        for path in dict.fromkeys([*one, *two])
        if one.get(path) != two.get(path)
    ]
    order = {group: position for position, group in enumerate(GROUPS)}
    yield from sorted(found, key=lambda each: order.get(each.group, len(order)))


def _fields(record: VersionRecord) -> Iterator[tuple[str, Any]]:
    """Return every value of a record by its dotted path; lists are values."""
    yield from {
        "axis": record.axis,
        "kind": record.kind,
        "dtype": record.dtype,
        "size": record.size,
        "created": record.created.isoformat(),
        "note": record.note,
        "tags": list(record.tags),
        "aliases": list(record.aliases),
        "sha256": record.sha256,
        "base.name": record.base.name,
        "base.revision": record.base.revision,
        "base.weights": record.base.weights,
        "base.tokenizer": record.base.tokenizer,
        "base.template": record.base.template,
    }.items()
    yield from _flat(record.metadata, "")
    for measurement in record.measurements:  # the newest of a kind counts
        yield from _flat(measurement.value, f"measurements.{measurement.kind}")


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _group_of(path: str) -> str:
    first, _, rest = path.partition(".")
    if path.rpartition(".")[2] in _HASHES:
        return "hashes"
    if not rest:
        return "version"
    if first == "training":
        return "seeds" if rest.partition(".")[0].endswith("seed") else "settings"
    return {"poles": "metrics", "measurements": "metrics"}.get(first, first)
