"""What each `--data` asks for: `SOURCE[@REVISION][:WEIGHT]` or `FILE[:WEIGHT]`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefreg.axes import Axis
from prefreg.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class WantedRows:
    """A source or file that is to be read."""

    name: str
    is_file: bool
    revision: str | None = None
    weight: float | None = None


def read_wanted(axis: Axis, texts: Sequence[str], revision: str | None) -> tuple[WantedRows, ...]:
    """Understand every `--data`, and give a single source the `--revision`.

    Raises:
        UsageError: A weight or revision is malformed, missing or given twice, or asked of a file.
        DataError: There is no such source or file.
    """
    wanted = tuple(_read(axis, text) for text in texts)
    names = [each.name for each in wanted]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--data names {name!r} twice: name it once, with its weight.")
    if len({each.weight is None for each in wanted}) > 1:
        raise UsageError("Give every --data a weight, as in NAME:0.7, or none.")
    if revision is None:
        return wanted
    if len(wanted) > 1:
        raise UsageError("--revision pins one source; of several, pin each: --data NAME@REVISION.")
    (only,) = wanted
    if only.is_file:
        raise UsageError(f"--revision pins a source on a hub; {only.name} is a file.")
    if only.revision is not None:
        raise UsageError(f"{texts[0]!r} and --revision pin the same source: give one of them.")
    return (replace(only, revision=revision),)


def _read(axis: Axis, text: str) -> WantedRows:
    """Read one `--data`; a source or a file whose name is the whole text wins."""
    head, colon, weight = text.rpartition(":")
    if found := _exact(axis, text):
        return found
    # No revision has a colon.
    if colon and (found := _exact(axis, head) or _pinned(axis, head)):
        return replace(found, weight=_read_weight(text, weight))
    if found := _pinned(axis, text):
        return found
    known = ", ".join(axis.sources)
    raise DataError(f"{text!r} is neither a source of the axis {axis.name!r} ({known}) nor a file.")


def _exact(axis: Axis, text: str) -> WantedRows | None:
    if text in axis.sources:
        return WantedRows(text, is_file=False)
    return WantedRows(text, is_file=True) if text and Path(text).exists() else None


def _pinned(axis: Axis, text: str) -> WantedRows | None:
    name, at, revision = text.partition("@")
    if not at or name not in axis.sources:
        return None
    if not revision:
        raise UsageError(f"{text!r} pins no revision: write it behind the @.")
    return WantedRows(name, is_file=False, revision=revision)


def _read_weight(text: str, weight: str) -> float:
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UsageError(f"The weight in {text!r} is no positive number: write NAME:0.7.")
    return value
