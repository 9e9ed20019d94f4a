"""The wheel, installed away from the clone, composes with the starter that it carries."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def prefreg(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The installed copy comes before the editable one.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment = environment | {"PREFREG_NO_STARTER": "0"}
    environment.pop("PREFREG_REGISTRY", None)
    command = [sys.executable, "-m", "prefreg", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_carries_model_starter_and_types(installed: Path) -> None:
    for name in ("starter.db", "py.typed", "pocket/model/model.safetensors"):
        assert (installed / "prefreg" / name).stat().st_size >= 0
    assert not (installed / "registry.db").exists()
    assert not (installed / "core").exists()


def test_the_installed_wheel_composes_with_its_starter(installed: Path, tmp_path: Path) -> None:
    starter = installed / "prefreg" / "starter.db"
    before = starter.read_bytes()
    terms = ("helpful:1", "harmless:0.5", "verbose:-0.3")
    result = prefreg(installed, tmp_path, "compose", *terms, "-o", "out")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert starter.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_wheel_carries_every_file_of_the_template(installed: Path, tmp_path: Path) -> None:
    result = prefreg(installed, tmp_path, "new-axis", "wit", "--json")
    assert result.returncode == 0, result.stderr
    template = ROOT / "core" / "prefreg" / "authoring" / "template"
    count = sum(path.is_file() for path in template.rglob("*"))
    assert len(json.loads(result.stdout)["data"]["files"]) == count >= 10


def test_the_wheel_is_small(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
    assert sizes["prefreg/starter.db"] < 24_000_000  # of pocket whole, of smollm2 in factors
    assert sum(sizes.values()) - sizes["prefreg/starter.db"] < 8_000_000
