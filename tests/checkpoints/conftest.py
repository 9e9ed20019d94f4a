from pathlib import Path

import pytest

import tiny


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of the test's own for what is remembered of files."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PREFREG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of saved models that no test may change."""
    folder = tmp_path_factory.mktemp("saved")
    tiny.save(tiny.llama(tied=False), folder / "llama")
    tiny.save(tiny.llama(tied=False), folder / "sharded", max_shard_size="10KB")
    tiny.save(tiny.llama(tied=True), folder / "tied")
    tiny.save(tiny.gpt2(), folder / "gpt2")
    return folder
