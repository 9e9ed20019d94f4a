"""The plugins that the user does not want imported: a small file, a name to a line.

A line names a distribution, or one of its plugins as `DISTRIBUTION:PLUGIN`.
"""

import difflib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefreg.config import config_folder
from prefreg.errors import AxisError, OutputError
from prefreg.plugins.discovery import FoundPlugin, find_plugins, normalise

_FILE = "disabled-plugins.txt"


def read_disabled() -> frozenset[str]:
    """Return the names in the list.

    Raises:
        AxisError: The list is there and cannot be read.
    """
    path = config_folder() / _FILE
    try:
        return frozenset(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise AxisError(
            f"The list of disabled plugins {path} cannot be read ({error}): correct or remove it."
        ) from error


def disable(name: str) -> str:
    """Keep a plugin, or all of a distribution, from being imported; return its entry in the list.

    Raises:
        AxisError: No or more than one plugin or distribution has this name.
        OutputError: The list cannot be written.
    """
    key = _key(name, find_plugins())
    with _changing() as names:
        names.add(key)
    return key


def enable(name: str) -> str:
    """Let a plugin, or all of a distribution, be imported again; return its entry in the list.

    Raises:
        AxisError: No or more than one plugin or distribution has this name, or its whole
            distribution is disabled.
        OutputError: The list cannot be written.
    """
    disabled = read_disabled()
    # What is no longer installed can be taken off the list, too.
    listed = {entry for entry in disabled if name in (entry, entry.partition(":")[2])}
    key = listed.pop() if len(listed) == 1 else _key(name, find_plugins())
    distribution = key.partition(":")[0]
    if key not in disabled and distribution in disabled:
        raise AxisError(
            f"{key!r} is disabled with its whole distribution: "
            f"run `prefreg axes --enable {distribution}`."
        )
    with _changing() as names:
        names.discard(key)
    return key


def _key(name: str, installed: list[FoundPlugin]) -> str:
    """Find the one distribution or plugin that a name means."""
    distributions = {found.keys[0] for found in installed}
    if normalise(name) in distributions:
        return normalise(name)
    matching = sorted({found.keys[1] for found in installed if name in (found.name, found.keys[1])})
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise AxisError(f"{name!r} is the name of several plugins: say {' or '.join(matching)}.")
    known = sorted({found.name for found in installed} | distributions)
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise AxisError(
        f"No plugin or distribution {name!r} is installed. "
        f"Installed: {', '.join(known) or 'none'}.{meant}"
    )


@contextmanager
def _changing() -> Iterator[set[str]]:
    """Hand the list out to be changed, one process at a time, and write it whole or not at all."""
    folder = config_folder()
    path = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        names = set(read_disabled())
        yield names
        _write(path, names)
    finally:
        os.close(descriptor)


def _write(path: Path, names: set[str]) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text("".join(f"{name}\n" for name in sorted(names)), "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The list of disabled plugins {path} cannot be written ({error.strerror or error}): "
        "set PREFREG_CONFIG to a folder that can be."
    )
