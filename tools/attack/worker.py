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


class Attempts:
    """The cases of one kind, made and read one by one in a folder."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        """Make the samples."""
        self.kind, self.seed, self.folder = kind, seed, folder
        self.box = folder / "box"
        for name in ("cache", "made"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ["PREFREG_CACHE"] = str(folder / "cache")
        os.environ["PREFREG_CONFIG"] = str(folder / "cache" / "settings")
        self._samples, self._read = READERS[kind].prepare(folder / "made")
        (folder / "canary").write_text("untouched")
        self._outside = _look(folder)

    def attempt(self, case: int) -> Outcome:
        """Read the mutated files of a case, which nothing but its number and the seed decide."""
        dice = Random(f"{self.seed} {self.kind} {case}")
        files = mutate(dice.choice(self._samples), dice)
        os.chdir(self.folder)
        shutil.rmtree(self.box, ignore_errors=True)
        self.box.mkdir()
        os.chdir(self.box)
        place(files, self.box, dice)
        size = sum(map(len, files.values()))
        _forget_peak()
        memory, began, told = _status("VmRSS"), process_time(), ""
        try:
            self._read(self.box)
            what = "accepted"
        except PrefregError as error:
            what, told = "refused", str(error)
            if "\n" in told.strip() or not told.strip():
                what = "failed: not one line"
        except Exception as error:
            what, told = f"failed: {type(error).__name__}", traceback.format_exc()
        seconds, growth = process_time() - began, max(0, _status("VmHWM") - memory)
        if growth > GROWTH + PER_BYTE * size:
            what = f"failed: {growth >> 20} MiB for {size >> 10} KiB"
        if (now := _look(self.folder)) != self._outside:
            what = f"failed: changed {sorted(set(now) ^ set(self._outside)) or 'a file'} outside"
            self._outside = now
        return Outcome(case, what, told[-3000:], seconds, growth)


def work(
    kind: str, seed: int, cases: range, folder: Path, kept: Path, outcomes: Connection
) -> None:
    """Send the outcome of each case of a kind, and None before them; keep the files that fail."""
    (folder / "cache").mkdir(exist_ok=True)
    said = os.open(folder / "cache" / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    tempfile.tempdir = str(folder / "cache")
    attempts = Attempts(kind, seed, folder)
    _bound_memory()
    outcomes.send(None)
    for case in cases:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signal ends the process
        outcome = attempts.attempt(case)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if outcome.what.startswith("failed"):
            keep(attempts.box, kept / f"{kind}-{case}", outcome.told)
        outcomes.send(outcome)


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
