"""What a GPU does with prefreg, for whoever has a card for ten minutes.

    python benchmarks/gpu.py --output DIR [--parts compose dials pair …] [--small]

Each part runs in a process of its own, ends within two minutes on an H100, and writes
`DIR/PART.json` after every step, so that nothing found is lost to what comes later: a part that
fails or outlasts `--limit` leaves the reason there, and the next one goes on. `--small` takes
sizes that a CPU does in seconds. Weights and texts are random, from seeds: what is measured is
time, memory and agreement.

A machine with torch and transformers alone gets the rest by `gpu_wheels.sh`. prefreg itself need
not be installed: what its command line and its axes are called is read from `pyproject.toml`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PARTS = {
    "dials": "turning",
    "compose": "composing",
    "pair": "training",
    "generate": "answering",
    "tests": "testing",
    "pair-3b": "training",
    "generate-cpu": "answering",
}
"""Every part with its module in `gpu_parts`, in the order in which they run; where one ends with
`-cpu`, its process sees no GPU."""
SEED = 0


class Record:
    """What a part finds, on the disk after every step."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        """Begin with what is known before anything is measured."""
        self.content: dict[str, Any] = content | {"tables": {}, "notes": [], "error": None}
        self._file = file
        self._began = time.perf_counter()
        self._write()

    def add(self, table: str, **row: Any) -> None:
        """Take a row, and say so."""
        self.content["tables"].setdefault(table, []).append(row)
        self.say(f"{table}: " + ", ".join(f"{name} {_short(cell)}" for name, cell in row.items()))

    def note(self, text: str) -> None:
        """Take a sentence, and say it."""
        self.content["notes"].append(text)
        self.say(text)

    def fail(self, reason: str) -> None:
        """Take the reason why the part ends here."""
        self.content["error"] = reason
        self.say(f"failed: {reason}")

    def say(self, text: str) -> None:
        """Print a line of progress with the seconds since the part began."""
        self.content["seconds"] = round(time.perf_counter() - self._began, 2)
        self._write()
        print(f"[{self.content['part']} {self.content['seconds']:7.2f} s] {text}", flush=True)

    def _write(self) -> None:
        text = json.dumps(self.content, indent=1, ensure_ascii=False, default=str)
        self._file.write_text(text + "\n", "utf-8")


def _short(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def run_part(part: str, output: Path, *, small: bool) -> Record:
    """Run a part in this process; what it fails with is recorded and raised."""
    file = output / f"{part}.json"
    repeat = f"python benchmarks/gpu.py --parts {part}" + (" --small" if small else "")
    record = Record(file, {"part": part, "repeat": repeat, "seed": SEED, "small": small})
    try:
        module = import_module(f"gpu_parts.{PARTS[part]}")
        record.content |= {"what": module.__doc__, "machine": machine()}
        record.say("libraries loaded")
        with tempfile.TemporaryDirectory() as folder:
            module.measure(record, part, Path(folder), small=small)
        record.say("done")
    except BaseException as error:
        record.fail("".join(traceback.format_exception_only(error)).strip())
        raise
    return record


def machine() -> dict[str, Any]:
    """Name the card and the versions that a figure depends on."""
    import torch

    from prefreg.training.resources import hardware, package_versions

    found: dict[str, Any] = {"hardware": hardware(), "cores": os.cpu_count(), **package_versions()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu_bytes": card.total_memory, "cuda": torch.version.cuda}
    return found


def run_apart(part: str, output: Path, *, small: bool, limit: float, path: str) -> bool:
    """Run a part in a process of its own, for `limit` seconds at most; tell if it ended well."""
    offline = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    if part.endswith("-cpu"):
        offline["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-u", __file__, "--part", part, "--output", str(output)]
    file = output / f"{part}.json"
    file.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [*command, "--small"] if small else command,
            env=os.environ | offline,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _died(part, file, f"it was ended after {limit:g} s")
    if done.returncode and (not file.exists() or not json.loads(file.read_text())["error"]):
        return _died(part, file, f"its process ended with {done.returncode}")
    return done.returncode == 0


def _died(part: str, file: Path, reason: str) -> bool:
    content = json.loads(file.read_text("utf-8")) if file.exists() else {"part": part}
    file.write_text(json.dumps(content | {"error": reason}, indent=1, ensure_ascii=False) + "\n")
    print(f"[{part}] failed: {reason}", flush=True)
    return False


def search_path(folder: Path) -> str:
    """Return where Python finds prefreg with its axes: where it is installed, or in this tree.

    `folder` takes what an installation would have written.
    """
    paths = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    try:
        distribution("prefreg")
    except PackageNotFoundError:
        paths += [str(ROOT / "core"), str(ROOT / "plugins"), str(write_metadata(folder))]
    return os.pathsep.join(paths)


def write_metadata(folder: Path) -> Path:
    """Write the name and the entry points of prefreg as an installation does; return where."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    made = folder / f"{project['name']}-{project['version']}.dist-info"
    made.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (made / "METADATA").write_text(about, "utf-8")
    axes = [f"{name} = {module}\n" for name, module in project["entry-points"]["prefreg"].items()]
    (made / "entry_points.txt").write_text("[prefreg]\n" + "".join(axes), "utf-8")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for, and count those that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--limit", type=float, default=150, help="seconds for each part")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.part:
        run_part(options.part, options.output, small=options.small)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = search_path(Path(folder))
        ended = [
            run_apart(part, options.output, small=options.small, limit=options.limit, path=path)
            for part in options.parts
        ]
    return ended.count(False)


if __name__ == "__main__":
    sys.exit(main())
