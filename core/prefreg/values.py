"""What people write, read with bounds: numbers with names, and small files."""

import math
import os
import re
import stat
from pathlib import Path
from typing import TypeVar

from prefreg.errors import PrefregError, UsageError

SMALL = 16 * 2**20
"""Bytes of a file that a person wrote: settings, a recipe, an axis."""
MAX_SEED = 2**63 - 1
"""The largest seed that every generator takes."""
MAX_COUNT = 2**31 - 1
"""The largest count of anything: steps, tokens, rows."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,5})?")
_LONGEST_NUMBER = 400

Number = TypeVar("Number", int, float)


def read_integer(text: str, what: str, *, low: int | None = None, high: int = MAX_COUNT) -> int:
    """Read a whole number in ASCII digits, at most `high` and at least `low`.

    Raises:
        UsageError: It is none, or out of bounds; the message names `what`.
    """
    if not _WHOLE.fullmatch(text):
        raise UsageError(f"{what}: {text!r} is no whole number.")
    return check_number(int(text), what, low=low, high=high)


def read_float(
    text: str, what: str, *, low: float | None = None, high: float | None = None
) -> float:
    """Read a finite decimal number in ASCII digits.

    Raises:
        UsageError: It is none, is not finite, or is out of bounds; the message names `what`.
    """
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise UsageError(f"{what}: {text!r} is no number.")
    return check_number(float(text), what, low=low, high=high)


def check_number(
    value: Number, what: str, *, low: float | None = None, high: float | None = None
) -> Number:
    """Return a number that is finite and within its bounds.

    Raises:
        UsageError: It is not; the message names `what`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{what}: {value!r} is not finite.")
    if low is not None and value < low:
        raise UsageError(f"{what}: {value!r} is below {low}.")
    if high is not None and value > high:
        raise UsageError(f"{what}: {value!r} is above {high}.")
    return value


def read_small(path: Path, error: type[PrefregError], *, most: int = SMALL) -> bytes:
    """Return the content of a regular file that a person wrote.

    Raises:
        PrefregError: Of the kind `error`: there is no such file, it is none (a folder, a device,
            a pipe), cannot be read, or has more than `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        with open(descriptor, "rb") as stream:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise error(f"{path} is no regular file.")
            content = stream.read(most + 1)
    except FileNotFoundError:
        raise error(f"There is no file {path}.") from None
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path} cannot be read: {reason}.") from cause
    if len(content) > most:
        raise error(f"{path} has more than {most >> 20} MiB: this is not the file that is meant.")
    return content
