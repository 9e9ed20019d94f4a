"""Read many mutated files of a kind, each within bounds, and say of each what came of it.

A fork does this: whatever ends it is a finding about one case, and another goes on after it.
"""

import os
import resource
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from time import process_time

from forks import Fork, be_quiet
from mutations import mutate, place
from readers import READERS

from prefreg.errors import PrefregError

SECONDS = 10
"""Of the processor for a case. A chat template is ended by prefreg after 8."""
MEMORY = 2 << 30
"""That the address space may grow to hold, beyond what the libraries take."""
GROWTH, PER_BYTE = 192 << 20, 64
"""What a case may take in memory: so much, and so many bytes for each of its own."""
_MOST_CRASHES = 20


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


@dataclass(slots=True)
class Found:
    """What came of the cases of one kind."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """A line for each, with the case that does it again."""
    slowest: float = 0.0
    """In seconds of the processor."""
    growth: int = 0
    """Bytes that one case took at most."""
    kills: dict[str, str] = field(default_factory=dict)
    """Of writers that were killed: how long each takes, and how many kills hit it."""

    def take(self, what: str, where: str) -> None:
        """Count an outcome; of a failure, keep a line that says where it was."""
        kind, _, why = what.partition(": ")
        self.outcomes[kind] += 1
        if kind == "failed":
            self.failures.append(f"{where}: {' '.join(why.split())[-300:]}")

    def row(self) -> tuple[str, ...]:
        """Return its row of the table."""
        counts = [self.outcomes[what] for what in ("refused", "accepted", "failed")]
        worst = (f"{self.slowest:.1f} s", f"{self.growth >> 20} MiB") if self.growth else ("", "")
        return self.name, str(self.outcomes.total()), *map(str, counts), *worst


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


def run_cases(kind: str, seed: int, cases: range, folder: Path, kept: Path) -> Found:
    """Read cases of a kind below a folder; the files of those that fail are kept in another."""
    found, crashes = Found(kind), 0
    place, said = folder / kind, folder / f"{kind}.said"
    while cases and crashes < _MOST_CRASHES:
        fork = Fork(partial(_work, kind, seed, cases, place, kept.resolve(), said))
        ready, why = False, ""
        try:
            while cases or not ready:
                outcome: Outcome | None = fork.hear()
                ready = True
                if outcome is not None:
                    _take(found, outcome)
                    cases = range(outcome.case + 1, cases.stop)
        except (EOFError, TimeoutError) as error:
            why = str(error)
        fork.kill()
        if cases:  # it ended in the middle of one
            told = said.read_text("utf-8", "replace")[-3000:]
            assert ready, f"{kind}: no case could be made.\n{told}"
            crashes += 1
            _take(found, Outcome(cases.start, f"failed: {why}", told))
            _keep(place / "box", kept / f"{kind}-{cases.start}", told)
            cases = cases[1:]
    return found


def _work(
    kind: str, seed: int, cases: range, place: Path, kept: Path, said: Path, outcomes: Connection
) -> None:
    """Send the outcome of each case, and None before them; keep the files that fail."""
    be_quiet(said)
    shutil.rmtree(place, ignore_errors=True)
    (place / "cache").mkdir(parents=True)
    tempfile.tempdir = str(place / "cache")
    attempts = Attempts(kind, seed, place)
    _bound_memory()
    outcomes.send(None)
    for case in cases:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signal ends the process
        outcome = attempts.attempt(case)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if outcome.what.startswith("failed"):
            _keep(attempts.box, kept / f"{kind}-{case}", outcome.told)
        outcomes.send(outcome)


def _take(found: Found, outcome: Outcome) -> None:
    found.slowest = max(found.slowest, outcome.seconds)
    found.growth = max(found.growth, outcome.growth)
    last = (outcome.told.strip().splitlines() or [""])[-1]
    found.take(f"{outcome.what}: {last}", f"{found.name} {outcome.case}")


def _keep(box: Path, to: Path, told: str) -> None:
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
