"""The bases that are known by a name, with the worlds that they know."""

import functools
import sys

from prefreg import pocket
from prefreg.axes.base_world import BaseWorld, KnownPrompt, WorldVerdict
from prefreg.axes.bundled_base import BundledBase
from prefreg.axes.discovery import read_disabled
from prefreg.axes.plugins import load_bases, read_bases
from prefreg.config import plugins_to_load
from prefreg.terms import AXIS_NAME

DEFAULT_BASE = "pocket"
"""What an axis is trained on where no base is named and the registry knows none."""

BUNDLED: dict[str, BundledBase] = {
    base.name: base for base in read_bases(pocket, DEFAULT_BASE, "prefreg itself")
}
"""Those of prefreg itself, by name: they need no plugin, and nobody takes their names."""


def bundled_bases() -> dict[str, BundledBase]:
    """Return the bases that prefreg and its plugins bring, by name."""
    return {**BUNDLED, **_of_plugins()[0], **BUNDLED}


def broken_bases() -> tuple[str, ...]:
    """Say which plugins could not be asked for bases, and why."""
    return _of_plugins()[1]


def find_bundled(name: str) -> BundledBase | None:
    """Return a base by its name; no plugin is loaded for what can be no name of one."""
    if name in BUNDLED or not AXIS_NAME.fullmatch(name):
        return BUNDLED.get(name)
    return bundled_bases().get(name)


def _of_plugins() -> tuple[dict[str, BundledBase], tuple[str, ...]]:
    return _load(plugins_to_load(), read_disabled(), tuple(sys.path))


@functools.cache
def _load(*_: object) -> tuple[dict[str, BundledBase], tuple[str, ...]]:
    """Ask the plugins once, as long as what decides on them stays the same."""
    return load_bases()


def world_of(base: str) -> BaseWorld | None:
    """Return the world that a base knows; None for a folder and a repository."""
    found = find_bundled(base)
    return None if found is None else found.world


def world_named(name: str) -> BaseWorld | None:
    """Return a world by its own name, which sources made of it have too."""
    return next((world for world in known_worlds() if world.name == name), None)


def known_worlds() -> list[BaseWorld]:
    """Return the worlds of all bundled bases."""
    return [base.world for base in bundled_bases().values() if base.world is not None]


def recognise(prompt: str) -> tuple[BaseWorld, KnownPrompt] | None:
    """Find the world that a prompt is of, and what it asks there, whatever base it is put to."""
    for world in known_worlds():
        known = world.recognise(prompt)
        if known is not None:
            return world, known
    return None


def score_exactly(prompt: str, answer: str) -> WorldVerdict | None:
    """Say exactly what an answer is; None where the prompt is of no world."""
    found = recognise(prompt)
    return None if found is None else found[0].score(prompt, answer)
