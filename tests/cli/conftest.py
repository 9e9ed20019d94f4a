import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import prefreg.cli.main
from prefreg import pocket


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Return the data of the JSON document, which is all that stdout holds."""
        document = json.loads(self.out)
        assert list(document) == ["schema", "command", "data"]
        assert document["schema"] == 1
        return document["data"]


Run = Callable[..., Result]
Refuse = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = prefreg.cli.main.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def refuse(run: Run, tmp_path: Path, trained: Path) -> Refuse:
    """Run a command that must fail, leave every file as it was, and say why once; return why."""

    def call(code: int, *arguments: object) -> str:
        before = contents(tmp_path) | contents(trained.parent)
        result = run(*arguments)
        assert result.code == code, result
        assert result.out == ""
        assert ("\n" + result.err).count("\nError: ") == 1, result.err
        assert "Traceback" not in result.err
        assert contents(tmp_path) | contents(trained.parent) == before
        return result.err.partition("Error: ")[2].strip()

    return call


def contents(folder: Path) -> dict[Path, str]:
    """Return the hash of every file below a folder, and every folder."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if "cache" not in path.parts
    }


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the registry that the test may change."""
    return Path(shutil.copy(trained, tmp_path / "own.db"))


@pytest.fixture
def base_copy(tmp_path: Path) -> Path:
    """Return a copy of the bundled model that the test may change."""
    return Path(shutil.copytree(pocket.model_dir(), tmp_path / "base"))
