from pathlib import Path

import pytest
from hypothesis import settings

import tiny
from prefreg.checkpoints.bases import BaseModel

# No deadline: two busy cores are slower than any; no data base: tests leave nothing behind.
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=True), tmp_path / "base")
