"""Read the mutated files of one kind, each within bounds, and say of each what came of it.

A process of its own does this: whatever ends it is a finding about one case.
"""

import os
import resource
import shutil
import signal
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from time import process_time

from mutations import mutate, place
from readers import READERS

from prefreg.errors import PrefregError

SECONDS = 10
"""Of the processor for a case. A chat template is ended by prefreg after 8."""
MEMORY = 2 << 30
"""That the address space may grow to hold, beyond what the libraries take."""
GROWTH, PER_BYTE = 192 << 20, 64
"""What a case may take in memory: so much, and so many bytes for each of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    case: int
    what: str
    """`accepted`, `refused`, or what failed."""
    told: str = ""
    """The message of a refusal, or a traceback."""
    seconds: float = 0.0
    """Of the processor."""
    growth: int = 0
    """Bytes of memory, at the peak, more than before."""


def work(
    kind: str, seed: int, cases: range, folder: Path, kept: Path, outcomes: Connection
) -> None:
    """Make and read cases of a kind, and send the outcome of each; None when all is prepared."""
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    said = os.open(cache / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ |= {"PREFREG_CACHE": str(cache), "PREFREG_CONFIG": str(cache / "settings")}
    tempfile.tempdir = str(cache)
    box = folder / "box"
    made = folder / "made"
    made.mkdir(exist_ok=True)
    samples, read = READERS[kind].prepare(made)
    (folder / "canary").write_text("untouched")
    outside = _look(folder)
    _bound_memory()
    outcomes.send(None)
    for case in cases:
        dice = Random(f"{seed} {kind} {case}")
        files = mutate(dice.choice(samples), dice)
        os.chdir(folder)
        shutil.rmtree(box, ignore_errors=True)
        box.mkdir()
        os.chdir(box)
        place(files, box, dice)
        size = sum(map(len, files.values()))
        _forget_peak()
        memory, began = _status("VmRSS"), process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signal ends the process
        told = ""
        try:
            read(box)
            outcome = "accepted"
        except PrefregError as error:
            outcome, told = "refused", str(error)
            if "\n" in told.strip() or not told.strip():
                outcome = "failed: not one line"
        except Exception as error:
            outcome, told = f"failed: {type(error).__name__}", traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        growth = max(0, _status("VmHWM") - memory)
        if growth > GROWTH + PER_BYTE * size:
            outcome = f"failed: {growth >> 20} MiB for {size >> 10} KiB"
        if (now := _look(folder)) != outside:
            outcome = f"failed: changed {sorted(set(now) ^ set(outside))[:3] or 'a file'} outside"
            outside = now
        seconds = process_time() - began
        if outcome.startswith("failed"):
            keep(box, kept / f"{kind}-{case}", told)
        outcomes.send(Outcome(case, outcome, told[-3000:], seconds, growth))


def keep(box: Path, to: Path, told: str) -> None:
    """Keep the files of a case that failed, with what was said."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    (to / "told.txt").write_text(told, "utf-8", "replace")
    for path in box.glob("*"):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, to / path.name)


def _look(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what lies around the box, in which everything is allowed."""
    found = {}
    for entry in os.scandir(folder):
        about = entry.stat(follow_symlinks=False)
        if entry.name not in ("box", "cache"):
            found[entry.name] = about.st_size, about.st_mtime_ns, about.st_ino
    return found


def _bound_memory() -> None:
    size = _status("VmSize")
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _status(name: str) -> int:
    """Return bytes that Linux counts of this process; 0 elsewhere."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(text.partition(f"{name}:")[2].split()[0]) << 10


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
