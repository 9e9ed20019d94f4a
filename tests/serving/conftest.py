from pathlib import Path

import pytest

from trained import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a registry with helpful@1 and verbosity@1, which no test may change."""
    return train(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture(autouse=True)
def surroundings(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path_factory.getbasetemp() / "fingerprints"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("PREFREG_REGISTRY", "PREFREG_LOAD_PLUGINS", "PREFREG_DEBUG"):
        monkeypatch.delenv(name, raising=False)
