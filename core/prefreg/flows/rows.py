"""Where the rows of a run come from: one of the axis's sources, or a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from prefreg.axes import Axis, PreferencePair, SourceRequest
from prefreg.containment import read_source
from prefreg.data.files import read_preference_file
from prefreg.data.pairs import label_rows
from prefreg.errors import DataError, UsageError

_POCKET = "pocket"


@dataclass(frozen=True, slots=True)
class Origin:
    """Labelled rows with the place that they came from."""

    pairs: Iterator[PreferencePair | None]
    source: str
    """The source's name, or `file`."""
    origin: str
    revision: str | None


def open_rows(
    axis: Axis, *, data: str | None, base: str, limit: int | None, revision: str | None, seed: int
) -> Origin:
    """Open a source by its name, or a file by its path; without either, the base's default.

    Raises:
        UsageError: A revision is asked of a file.
        DataError: There is no such source or file, or it cannot be read.
    """
    if data is None:
        data = default_source(axis, base)
    if data in axis.sources:
        return _open_source(axis, data, SourceRequest(limit, revision, seed))
    path = Path(data)
    if not path.exists():
        known = ", ".join(axis.sources)
        raise DataError(
            f"{data!r} is neither a source of the axis {axis.name!r} ({known}) nor a file."
        )
    if revision is not None:
        raise UsageError(f"--revision pins a source on a hub; {data} is a file.")
    pairs = (pair for _, pair in islice(read_preference_file(path), limit))
    return Origin(pairs, "file", path.name, None)


def default_source(axis: Axis, base: str) -> str:
    """Name the source that is read when none is named."""
    # The bundled model knows only the words of its own world.
    if base == _POCKET and _POCKET in axis.sources:
        return _POCKET
    return next(iter(axis.sources))


def _open_source(axis: Axis, name: str, request: SourceRequest) -> Origin:
    found = read_source(axis, name, request)
    rows = islice(found.rows, request.limit)
    return Origin(label_rows(axis, rows), name, found.origin, found.revision)
