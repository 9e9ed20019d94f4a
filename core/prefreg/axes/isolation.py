"""Calls into the code of plugins: stdout stays clean, and whatever goes wrong gets a name.

Nothing else in prefreg calls a source, a label rule, a switch or a metric.
"""

import contextlib
import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prefreg.axes.axis import (
    Axis,
    Message,
    Metric,
    PreferencePair,
    Row,
    SourceRequest,
    SourceRows,
    without_repetition,
)
from prefreg.errors import DataError, one_line, reason
from prefreg.json_values import parse_json

_END = object()

MOST_ROWS = 1_000_000
"""Rows of a source that is given no limit: one without end brings more."""


def owned(axis: Axis) -> str:
    """Name an axis with the plugin that brought it."""
    return f"axis {axis.name!r}" + (f" ({axis.owner})" if axis.owner else "")


def read_source(axis: Axis, name: str, request: SourceRequest) -> SourceRows:
    """Ask a source for rows, which arrive while they are read.

    Without a limit, a DataError ends them after `MOST_ROWS`.
    """
    where = f"The source {name!r} of {owned(axis)}"
    with isolated(f"{where} failed"):
        found = axis.sources[name](request)
        if not isinstance(found, SourceRows):
            found = SourceRows(found, origin=name)
        if not isinstance(found.rows, Iterable) or isinstance(found.rows, str | bytes | Mapping):
            raise DataError(f"it returned a {type(found.rows).__name__}, not rows")
        if not isinstance(found.origin, str) or not isinstance(found.revision, str | None):
            raise DataError("the origin and revision of its SourceRows are no strings")
        rows = iter(found.rows)
    return SourceRows(_isolated_rows(rows, where, request.limit), found.origin, found.revision)


def label_rows(axis: Axis, rows: Iterable[Row]) -> Iterator[PreferencePair | None]:
    """Apply the label rule; None is a tie."""
    for number, row in enumerate(rows, start=1):
        yield label_row(axis, row, number)


def label_row(axis: Axis, row: Row, number: int) -> PreferencePair | None:
    """Apply the label rule to a row; None is a tie."""
    if not isinstance(row, Mapping):
        raise DataError(
            f"Row {number} of {owned(axis)} is a {type(row).__name__}, "
            "not a mapping of columns: correct the source."
        )
    rule = f"The label rule of {owned(axis)}"
    with isolated(lambda: f"{rule} failed on {_place(number, row)}"):
        pair = axis.label(row)
    if pair is None:
        return None
    if not isinstance(pair, PreferencePair):
        raise DataError(
            f"{rule} returned a {type(pair).__name__} for {_place(number, row)}, "
            "neither a PreferencePair nor None."
        )
    if problem := _shape_problem(pair):
        raise DataError(f"{rule} returned a pair for {_place(number, row)} {problem}.")
    try:
        return without_repetition(pair)
    except DataError as error:
        raise DataError(f"{rule} failed on {_place(number, row)}: {error}.") from error


def switch_pairs(axis: Axis, pairs: Iterable[PreferencePair]) -> tuple[PreferencePair, ...]:
    """Make the pairs of the negative pole."""
    return tuple(switch_pair(axis, pair, number) for number, pair in enumerate(pairs, start=1))


def switch_pair(axis: Axis, pair: PreferencePair, number: int) -> PreferencePair:
    """Make the negative pole's pair."""
    switch = f"The switch of {owned(axis)}"
    with isolated(lambda: f"{switch} failed on pair {number}"):
        other = axis.switch(pair)
    if not isinstance(other, PreferencePair):
        raise DataError(
            f"{switch} returned a {type(other).__name__} for pair {number}, not a PreferencePair."
        )
    if problem := _shape_problem(other):
        raise DataError(f"{switch} returned a pair for pair {number} {problem}.")
    return other


def measure(axis: Axis, prompt: str, answer: str) -> float | None:
    """Score an answer with the axis's metric, which must have one; None: it does not apply."""
    assert axis.metric is not None
    return score(axis.metric, prompt, answer, f"The metric of {owned(axis)}")


def score(metric: Metric, prompt: str, answer: str, name: str) -> float | None:
    """Score an answer with a metric, which messages call `name`; None: it does not apply."""
    with isolated(
        lambda: f"{name} failed on the prompt {prompt[:60]!r} with the answer {answer[:60]!r}"
    ):
        value = metric(prompt, answer)
        if value is None:
            return None
        number = float(value)
        if isinstance(value, str) or not math.isfinite(number):
            raise DataError(f"it returned {value!r}, not a finite number")
    return number


@contextmanager
def isolated(failed: str | Callable[[], str]) -> Iterator[None]:
    """Run a plugin's code off stdout; whatever it raises becomes a DataError that says `failed`."""
    try:
        with off_stdout():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = failed if isinstance(failed, str) else failed()
        raise DataError(f"{said}: {reason(error)}") from error


def off_stdout() -> contextlib.AbstractContextManager[None]:
    """Send to stderr what is written to stdout meanwhile, by subprocesses and C code too."""
    return _DIVERSION.open()


class _Diversion:
    """Stdout, sent to stderr from the first to enter until the last to leave, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = contextlib.ExitStack()

    @contextmanager
    def open(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore = _divert()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._restore.close()


_DIVERSION = _Diversion()


def _divert() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    _flush()
    with contextlib.suppress(OSError):  # a closed descriptor needs no care
        saved = os.dup(1)
        stack.callback(os.close, saved)
        os.dup2(2, 1)
        stack.callback(os.dup2, saved, 1)
        stack.callback(_flush)
    stack.enter_context(contextlib.redirect_stdout(sys.stderr))
    return stack


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        # The reader may have gone, and a plugin may have closed it.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]


def _isolated_rows(rows: Iterator[Row], where: str, limit: int | None) -> Iterator[Row]:
    for number in itertools.count(1):
        with isolated(f"{where} failed at row {number}"):
            row = next(rows, _END)
        if row is _END:
            return
        if limit is None and number > MOST_ROWS:
            raise DataError(
                f"{where} has brought {MOST_ROWS:,} rows and goes on: say how many to read with "
                "--limit."
            )
        yield row  # type: ignore[misc]


def _place(number: int, row: Row) -> str:
    try:
        columns = one_line(", ".join(map(str, row)))
    except KeyboardInterrupt:
        raise
    except BaseException:  # the row is the plugin's, too
        columns = "unreadable"
    return f"row {number} (columns: {columns or 'none'})"


def _shape_problem(pair: PreferencePair) -> str | None:
    """Say what a plugin got wrong in a pair that it made without `from_row`."""
    if not isinstance(pair.group, str | None):
        return f"whose group is a {type(pair.group).__name__}, not a string"
    for what, told, kind in (("tools", pair.tools, list), ("options", pair.template_options, dict)):
        if not isinstance(told, str) or (told and not _holds(told, kind)):
            return f"whose {what} are no JSON text of a {kind.__name__}"
    texts = (pair.prompt, pair.chosen, pair.rejected)
    if all(isinstance(text, str) for text in texts):
        return None
    for text in texts:
        if not isinstance(text, tuple) or not all(isinstance(turn, Message) for turn in text):
            return "whose texts are neither all strings nor all tuples of Message"
        if not text:
            return "with an empty tuple of messages"
        for turn in text:
            if not isinstance(turn.role, str) or not isinstance(turn.content, str):
                return f"with a message whose role or content is no string: {turn!r:.80}"
    return None


def _holds(text: str, kind: type) -> bool:
    try:
        return isinstance(parse_json(text), kind)
    except ValueError:
        return False
