"""Packages as an installer leaves them, and the installed command that finds them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
import prefreg
from prefreg import Axis, PreferencePair

def load(request):
    for n in range(30)[:request.limit]:
        yield {{"prompt": f"Say {{n}}.", "chosen": "It is red.", "rejected": "It is blue."}}

@prefreg.hookimpl
def prefreg_register_axes():
    return [Axis(name={name!r}, summary="A test.", aliases={aliases!r},
                 sources={{"rows": load}}, label=PreferencePair.from_row)]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the path in which packages can be installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def good(name: str, *aliases: str) -> str:
    """Write a module that brings one working axis."""
    return GOOD.format(name=name, aliases=aliases)


def install(
    site: Path,
    distribution: str,
    code: str,
    *,
    version: str = "2.5",
    entry_points: str | None = None,
) -> None:
    """Write a distribution with one module, named after it, and its entry points."""
    module = distribution.replace("-", "_")
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(code)
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(f"[prefreg]\n{entry_points or f'{module} = {module}'}\n")


def prefreg(*arguments: str, sites: list[Path], **environment: str) -> tuple[int, str, str]:
    """Run the installed command where these sites are on the path; return code, out and err."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFREG_")}
    kept |= {"PYTHONPATH": os.pathsep.join(map(str, sites)), "HF_HUB_OFFLINE": "1"}
    kept |= {"PREFREG_CONFIG": str(sites[0] / "settings")}
    result = subprocess.run(
        [Path(sys.executable).with_name("prefreg"), *arguments],
        cwd=sites[0],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr
