"""Checks of what a source gives and of how the label rule takes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from prefreg.axes import Axis, PreferencePair, Row, SourceRequest
from prefreg.containment import contained, label_row, one_line, owned, read_source
from prefreg.testing.report import Finding, failed, passed, warned

_MANY_TIES = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows of one request, with what the label rule made of each."""

    rows: tuple[Row, ...]
    labelled: tuple[PreferencePair | None, ...]

    @property
    def pairs(self) -> tuple[PreferencePair, ...]:
        """Return the pairs of the rows that are no ties."""
        return tuple(pair for pair in self.labelled if pair is not None)


def read_rows(axis: Axis, source: str, *, limit: int, seed: int) -> tuple[Row, ...]:
    """Ask a source for rows and take `limit` of them at most.

    Raises:
        DataError: The source failed.
    """
    found = read_source(axis, source, SourceRequest(limit=limit, seed=seed))
    return tuple(islice(found.rows, limit))


def label_all(axis: Axis, rows: Sequence[Row]) -> Reading:
    """Label rows.

    Raises:
        DataError: A row is no mapping, or the label rule failed.
    """
    labelled = (label_row(axis, row, number) for number, row in enumerate(rows, start=1))
    return Reading(tuple(rows), tuple(labelled))


def check_columns(axis: Axis, rows: Sequence[Row]) -> Finding:
    """Check that every row has the same columns, and strings for their names."""
    with contained(f"The columns of a row of {owned(axis)} cannot be read"):
        columns = [tuple(row) for row in rows]
    for number, names in enumerate(columns, start=1):
        if strange := [name for name in names if not isinstance(name, str)]:
            return failed("columns", f"row {number} has a column {strange[0]!r}: use a string")
    for number, names in enumerate(columns, start=1):
        if differing := sorted(set(names) ^ set(columns[0])):
            return warned(
                "columns", one_line(f"rows 1 and {number} differ in {', '.join(differing)}")
            )
    return passed("columns", one_line(", ".join(columns[0])) or "none")


def check_limit(axis: Axis, source: str, *, rows: int, seed: int) -> Finding:
    """Check that a source gives no more rows than it is asked for."""
    limit = max(1, rows // 2)
    found = read_source(axis, source, SourceRequest(limit=limit, seed=seed))
    count = sum(1 for _ in islice(found.rows, limit + 1))
    if count > limit:
        return failed("limit", f"asked for {limit} rows it gives more: stop at request.limit")
    return passed("limit", f"asked for {limit} rows it gives {count}")


def check_determinism(axis: Axis, source: str, first: Reading, *, limit: int, seed: int) -> Finding:
    """Check that the same request gives the same rows and labels once more."""
    rows = read_rows(axis, source, limit=limit, seed=seed)
    if len(rows) != len(first.rows):
        return failed(
            "determinism",
            f"the same request gave {len(first.rows)} rows, then {len(rows)}: draw from "
            "random.Random(request.seed), and return a new iterator each time",
        )
    with contained(f"The rows of {owned(axis)} cannot be compared"):
        pairs = zip(first.rows, rows, strict=True)
        differing = [number for number, (one, two) in enumerate(pairs, 1) if not _same(one, two)]
    if differing:
        return failed(
            "determinism",
            f"row {differing[0]} differs when the same request is made again: draw from "
            "random.Random(request.seed), and do not change rows in the label rule",
        )
    again = label_all(axis, rows)
    labels = zip(first.labelled, again.labelled, strict=True)
    if changed := [number for number, (one, two) in enumerate(labels, 1) if one != two]:
        return failed(
            "determinism",
            f"row {changed[0]} is labelled differently the second time: a label must depend on "
            "the row alone",
        )
    return passed("determinism", "the same request gives the same rows and labels")


def check_ties(reading: Reading) -> Finding:
    """Check that the label rule decides, and how often it does not."""
    ties = sum(pair is None for pair in reading.labelled)
    share = ties / len(reading.labelled)
    if share == 1:
        return failed("ties", f"the label rule never decides: all {ties} rows are ties")
    said = f"{share:.1%} of the rows are ties ({ties} of {len(reading.labelled)})"
    return (
        warned("ties", f"{said}; they teach nothing")
        if share > _MANY_TIES
        else passed("ties", said)
    )


def _same(one: Row, two: Row) -> bool:
    """Compare two rows, also where a column holds an array that compares by element."""
    try:
        return bool(dict(one) == dict(two))
    except ValueError:
        return repr(dict(one)) == repr(dict(two))
