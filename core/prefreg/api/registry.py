"""The registry, whole."""

from pathlib import Path

from prefreg.api.composing import Composing
from prefreg.api.dialling import Dialling
from prefreg.api.measuring import Measuring
from prefreg.api.records import Reading
from prefreg.api.upkeep import Keeping
from prefreg.api.vectors import Making


class Registry(Making, Composing, Measuring, Dialling, Reading, Keeping):
    """A registry of preference vectors.

    Nothing is held open between calls, so processes can share one registry.
    """


def open(location: str | Path | None = None) -> Registry:
    """Open a registry by its path or SQLAlchemy URL.

    Without a location: `PREFREG_REGISTRY`, else `./registry.db`, else, for reading, the starter
    that ships with prefreg. The first write creates what is missing.
    """
    return Registry(location)
