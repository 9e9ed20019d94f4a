"""What people write, read with bounds: numbers with names, dtypes, and small files."""

import errno
import math
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from prefreg.errors import PrefregError, UsageError
from prefreg.files import open_regular

SMALL = 16 * 2**20
"""Bytes of a file that a person wrote: settings, a recipe, an axis."""
MAX_SEED = 2**63 - 1
"""The largest seed that every generator takes."""

DTYPES = ("float32", "bfloat16", "float16")
STORAGE_DTYPES = ("float32", "bfloat16")
"""Those that vectors are stored in."""
_SHORT = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_SHORT |= {"f16": "float16"}

Number = TypeVar("Number", int, float)


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


def dtype_name(text: str, known: Collection[str] = DTYPES) -> str:
    """Return the name of a dtype that may be written as `bf16` or `BF16`, too.

    Raises:
        UsageError: It is none of those known.
    """
    name = _SHORT.get(text.lower(), text.lower())
    if name not in known:
        raise UsageError(f"{text!r} is no dtype. Use {', '.join(known)}.")
    return name


def find_path(text: str) -> Path | None:
    """Return the file or folder that a text names, `~` being a home; None where there is none."""
    try:
        path = Path(text).expanduser()
        return path.resolve() if text and path.exists() else None
    except (RuntimeError, ValueError):  # of no user's home, or with a zero in it
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def read_small(path: Path, error: type[PrefregError], *, most: int = SMALL) -> bytes:
    """Return the content of a regular file that a person wrote.

    Raises:
        PrefregError: Of the kind `error`: there is no such file, it is none (a folder, a device,
            a pipe), cannot be read, or has more than `most` bytes.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(most + 1)
    except FileNotFoundError:
        raise error(f"There is no file {path}.") from None
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path} cannot be read: {reason}.") from cause
    if len(content) > most:
        raise error(f"{path} has more than {most >> 20} MiB: this is not the file that is meant.")
    return content
