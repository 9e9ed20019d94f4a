"""What guards and checkpoints cost a pair on the bundled model: `python benchmarks/guards.py`.

Every run is a process of its own on one thread; CPU seconds are those of `Registry.add_axis`, with
what the reference scored in the cache from a first run that does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prefreg
from prefreg.training import callbacks

MODES: dict[str, dict[str, Any]] = {
    "all guards": {},
    "no answers": {"answers": 0},
    "no guards on the way": {"watch": False},
    "all guards, saving as often as allowed": {},
}
SAVING = list(MODES)[-1]


def measure(mode: str, axis: str) -> dict[str, Any]:
    """Train a pair once."""
    saves = []
    keep = callbacks.Checkpoints.on_save

    def on_save(self: callbacks.Checkpoints, *arguments: Any, **names: Any) -> None:
        started = time.process_time()
        keep(self, *arguments, **names)
        saves.append(time.process_time() - started)

    callbacks.Checkpoints.on_save = on_save  # type: ignore[method-assign]
    if mode == SAVING:
        callbacks.SAVE_INTERVAL = 0.0
    with tempfile.TemporaryDirectory() as folder:
        registry = prefreg.open(Path(folder) / "guards.db")
        started = time.process_time()
        record = registry.add_axis(axis, base="pocket", fresh=True, **MODES[mode])
    return {
        "mode": mode,
        "cpu": time.process_time() - started,
        "saves": len(saves),
        "sha256": record.sha256,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every mode, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axis", default="helpful")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.mode:
        print(json.dumps(measure(options.mode, options.axis)))
        return
    modes = [SAVING, *list(MODES) * options.repeats]
    found = []
    for mode in modes:
        command = [sys.executable, __file__, "--axis", options.axis, "--mode", mode]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert len({row["sha256"] for row in found}) == 1, "a guard changed the vector"
    print("| mode | CPU seconds | median | checkpoints |\n|---|---|---|---|")
    for mode in MODES:
        rows = [row for row in found[1:] if row["mode"] == mode]
        times = [row["cpu"] for row in rows]
        each = ", ".join(f"{value:.1f}" for value in times)
        print(f"| {mode} | {each} | {statistics.median(times):.1f} | {rows[0]['saves']} |")


if __name__ == "__main__":
    main()
