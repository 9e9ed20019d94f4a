"""Every error that prefreg raises on purpose, in one tree, and what their messages share.

PrefregError            1   a known problem, told in one message
├── UsageError          2   a malformed term, option or argument
├── AxisError           1   no such axis, a broken or conflicting plugin
├── DataError           1   rows that cannot become preference pairs
├── BaseModelError      1   a base model that is missing, damaged or another one
├── VectorError         1   a vector that is damaged or does not fit
├── RegistryError       1   a registry that is missing, damaged, newer or read-only
│   └── NotStoredError  1   an axis or a version that a registry does not hold
├── OutputError         1   a destination that cannot or must not be written
├── HubError            1   a Hub that refuses or cannot be reached, or a repository of others
├── TrainingError       1   a run that could not be carried out
├── BusyError           1   more is asked of a live model than it keeps waiting
└── GateError           3   a run that was carried out and did not meet its gate

UserWarning
└── RangeWarning            a coefficient beyond the range of its version

KeyboardInterrupt
└── Interrupted       130   Ctrl-C in a run that can be taken up again

The number is the exit code of the command line.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

from prefreg.wording import as_arguments, presentable

_LONGEST_REASON = 400


class PrefregError(Exception):
    """A known problem: what was wrong, with which thing, and what to do.

    Options that a message names become the arguments of Python; the command line names options.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Keep the message as it may be shown, whatever it repeats of what was given."""
        super().__init__(as_arguments(presentable(message)))


class UsageError(PrefregError):
    """A malformed term, option or argument."""

    exit_code = 2


class AxisError(PrefregError):
    """No such axis, or a plugin that is broken or conflicts with another."""


class DataError(PrefregError):
    """Rows that cannot become preference pairs."""


class BaseModelError(PrefregError):
    """A base model that is missing, damaged, or not the one that was asked for."""


class VectorError(PrefregError):
    """A preference vector that is damaged or does not fit its base."""


class RegistryError(PrefregError):
    """A registry that is missing, damaged, of a newer schema, or read-only."""


class NotStoredError(RegistryError):
    """An axis or a version that a registry does not hold, or not on the base asked for."""


class OutputError(PrefregError):
    """A destination that cannot be written, or must not be overwritten."""


class HubError(PrefregError):
    """The Hub refuses, cannot be reached, or has a repository that is not what was asked for."""


class TrainingError(PrefregError):
    """A training run that could not be carried out."""


class BusyError(PrefregError):
    """More is asked of a live model than it keeps waiting: ask again later."""


class RangeWarning(UserWarning):
    """A coefficient beyond the range of its version, or far beyond the poles it was made of."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run that has kept what is done; the message says how to go on."""


class GateError(PrefregError):
    """A training run that was carried out but whose result must not be trusted."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: the name that may have been meant, if one is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message, the first few of many."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(map(repr, ordered[:limit])) + more


def unreadable(name: Path | str, error: Exception, kind: type[PrefregError]) -> PrefregError:
    """Make the error that a file could not be read."""
    return kind(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.")


def reason(error: BaseException) -> str:
    """Tell an exception in one printable line: its type and message; of our own, the message."""
    try:
        text = str(error)
    except BaseException:  # a message may be made by code that fails, too
        text = ""
    text = one_line(text)
    if isinstance(error, PrefregError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """Write what another program says as one printable line, cut where it is long."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…"
