"""The entry points of plugins, found without importing any, and the list of those kept out."""

import fcntl
import importlib.metadata
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

from prefreg.axes.hookspecs import ENTRY_POINT_GROUP
from prefreg.config import config_folder, plugins_to_load
from prefreg.errors import AxisError, OutputError, did_you_mean, reason
from prefreg.files import write_whole

_OWN_DISTRIBUTION = "prefreg"
_FILE = "disabled-plugins.txt"


@dataclass(frozen=True, slots=True)
class FoundPlugin:
    """A plugin that a distribution declares, or why that declaration cannot be used."""

    name: str
    distribution: str
    version: str
    point: EntryPoint | None
    problem: str | None = None

    @property
    def keys(self) -> tuple[str, str]:
        """Return what the list of disabled plugins may call it: its distribution, or itself."""
        distribution = normalise(self.distribution)
        return distribution, f"{distribution}:{self.name}"


def normalise(distribution: str) -> str:
    """Write the name of a distribution as installers compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def find_plugins() -> list[FoundPlugin]:
    """Return the plugins of every distribution that `PREFREG_LOAD_PLUGINS` allows."""
    wanted = plugins_to_load()
    allowed = None if wanted is None else set(map(normalise, wanted))
    found: list[FoundPlugin] = []
    seen: set[tuple[str, str]] = set()
    # importlib.metadata.entry_points() would fail as a whole at one damaged distribution.
    for distribution in importlib.metadata.distributions():
        if ENTRY_POINT_GROUP not in (_declaration(distribution) or ""):
            continue
        name, version = _identity(distribution)
        # The same version twice is one package that is found in two ways.
        if (normalise(name), version) in seen:
            continue
        if allowed is None or normalise(name) in allowed:
            seen.add((normalise(name), version))
            found += _plugins(distribution, name, version)
    # Our own axes come first, so that nobody takes their names; the rest in a fixed order.
    return sorted(
        found, key=lambda item: (item.distribution != _OWN_DISTRIBUTION, item.keys, item.version)
    )


def read_disabled() -> frozenset[str]:
    """Return the names in the list."""
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
    """Keep a plugin, or all of a distribution, from being imported; return its entry."""
    key = _key(name, find_plugins())
    with _changing() as names:
        names.add(key)
    return key


def enable(name: str) -> str:
    """Let a plugin, or all of a distribution, be imported again; return its entry."""
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


def _plugins(distribution: Distribution, name: str, version: str) -> Iterator[FoundPlugin]:
    try:
        points = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
    except Exception as error:  # whatever the parser makes of a damaged file
        damaged = f"its entry_points.txt is damaged ({reason(error)}): install it again"
        yield FoundPlugin(name, name, version, None, damaged)
        return
    shadow = _shadow(distribution, name, version)
    twice = f"{name} has two entry points of this name; the second is not used"
    names: set[str] = set()
    for point in points:
        problem = twice if point.name in names else shadow
        names.add(point.name)
        yield FoundPlugin(point.name, name, version, point, problem)


def _shadow(distribution: Distribution, name: str, version: str) -> str | None:
    """Say which other version of a distribution is the one that Python imports."""
    try:
        active = importlib.metadata.distribution(name)
        used = active.version
    except Exception:  # its metadata are damaged; what can be imported is still worth trying
        return None
    if used == version:
        return None
    return (
        f"two versions of {name} are installed: {used} in {active.locate_file('')} is used, and "
        f"{version} in {distribution.locate_file('')} is not; uninstall one of them"
    )


def _declaration(distribution: Distribution) -> str | None:
    try:
        return distribution.read_text("entry_points.txt")
    except (OSError, UnicodeDecodeError):
        return None


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Return the name and version; damaged metadata have neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.12 announces that missing metadata will raise
        try:
            return distribution.name or "unknown", distribution.version or "unknown"
        except Exception:
            return "unknown", "unknown"


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
    raise AxisError(
        f"No plugin or distribution {name!r} is installed. "
        f"Installed: {', '.join(known) or 'none'}.{did_you_mean(name, known)}"
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
    try:
        write_whole(path, "".join(f"{name}\n" for name in sorted(names)))
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The list of disabled plugins {path} cannot be written ({error.strerror or error}): "
        "set PREFREG_CONFIG to a folder that can be."
    )
