from pathlib import Path

import pytest

import tiny
from prefreg.checkpoints.bases import BaseModel


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=True), tmp_path / "base")
