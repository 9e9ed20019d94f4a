"""One registry of short but real runs on the bundled model, which several rooms' tests share."""

import functools
from pathlib import Path

import pytest

import prefreg

AXES = ("helpful", "verbosity")


@functools.cache
def train(folder: Path) -> Path:
    """Train both axes for a few steps and return the registry, which no test may change."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(folder / "cache"))
        registry = prefreg.open(folder / "trained.db")
        for axis in AXES:
            registry.add_axis(
                axis, base="pocket", limit=200, settings=["max_steps=8"], keep_anyway=True
            )
    return folder / "trained.db"
