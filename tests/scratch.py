"""A scratch environment: the packages of this one, and room for more that nobody else sees."""

import json
import os
import shutil
import site
import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SESSION = """
import contextlib, io, json, sys
from prefreg.cli.main import run

results = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = run(command)
    results.append((code, out.getvalue(), err.getvalue()))
json.dump(results, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Scratch:
    """A virtual environment below `folder`; it sees what is installed here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        scheme = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        packages = Path(sysconfig.get_path("purelib", "venv", scheme))
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "prefreg_session.py").write_text(_SESSION)
        (packages / "parent.pth").write_text("\n".join(lines) + "\n")

    def run(self, program: str, *arguments: str | Path, cwd: Path | None = None) -> Result:
        """Run the module of a program as a user of the environment would, offline."""
        kept = {name: os.environ[name] for name in os.environ if not name.startswith("PREFREG_")}
        offline = {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: without isolation
            "PREFREG_CACHE": str(self.folder / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [self.python, "-m", program, *map(str, arguments)],
            cwd=cwd or self.folder,
            env=kept | offline,
            capture_output=True,
            text=True,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def prefreg(self, *commands: Sequence[str]) -> list[Result]:
        """Run commands one after the other in one process, as torch takes seconds to import."""
        done = self.run("prefreg_session", json.dumps(commands))
        assert done.code == 0, done.err
        return [Result(*each) for each in json.loads(done.out)]

    def install(self, *sources: Path) -> None:
        """Install packages from copies of their folders, so that none gets a build folder."""
        copies = [shutil.copytree(source, self.folder / source.name) for source in sources]
        done = self.run("pip", "install", "--quiet", *map(str, copies))
        assert done.code == 0, done.err
