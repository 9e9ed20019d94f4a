"""Find the entry points of plugins without importing any of them."""

import importlib.metadata
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint

from prefreg.config import plugins_to_load
from prefreg.containment import reason
from prefreg.hookspecs import ENTRY_POINT_GROUP

_OWN_DISTRIBUTION = "prefreg"


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
