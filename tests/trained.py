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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a registry with helpful@1 and verbosity@1, which no test may change."""
    return train(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture(autouse=True)
def surroundings(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand in a folder of the test's own, offline, with none of the user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "fingerprints"))
    monkeypatch.setenv("PREFREG_CONFIG", str(tmp_path_factory.getbasetemp() / "settings"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("REGISTRY", "BLOBS", "LOAD_PLUGINS", "DEBUG"):
        monkeypatch.delenv(f"PREFREG_{name}", raising=False)
