"""The bases that come with prefreg, each with its folder and the world that it knows."""

from dataclasses import dataclass
from pathlib import Path

from prefreg import pocket
from prefreg.axes.base_world import BaseWorld, KnownPrompt, WorldVerdict

DEFAULT_BASE = "pocket"
"""What an axis is trained on where no base is named and the registry knows none."""


@dataclass(frozen=True, slots=True)
class BundledBase:
    """A base that is known by a name."""

    name: str
    folder: Path
    world: BaseWorld | None


BUNDLED: dict[str, BundledBase] = {
    "pocket": BundledBase("pocket", pocket.model_dir(), pocket.PocketWorld()),
}
"""By name."""


def world_of(base: str) -> BaseWorld | None:
    """Return the world that a base knows; None for a folder and a repository."""
    return BUNDLED[base].world if base in BUNDLED else None


def world_named(name: str) -> BaseWorld | None:
    """Return a world by its own name, which sources made of it have too."""
    return next((world for world in known_worlds() if world.name == name), None)


def known_worlds() -> list[BaseWorld]:
    """Return the worlds of all bundled bases."""
    return [base.world for base in BUNDLED.values() if base.world is not None]


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
