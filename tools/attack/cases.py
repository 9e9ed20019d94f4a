"""Many cases of a kind, in processes that may die of one: what came of them, and the worst."""

import multiprocessing
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from worker import Outcome, keep, work

PATIENCE = 180
"""Seconds in which nothing comes of a process, which by then waits for something."""
_MOST_CRASHES = 20
_PRELOADED = (
    "worker", "transformers.models.llama.modeling_llama", "pyarrow.parquet", "prefreg.api",
    "prefreg.composition.compose", "prefreg.composition.export", "prefreg.models.loading",
    "prefreg.serving.server", "prefreg.sharing.bundles", "prefreg.training.settings",
)  # fmt: skip


def start() -> None:
    """Load what all processes need, once: they are forked from a process that has it."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    _PROCESSES.set_forkserver_preload(list(_PRELOADED))


_PROCESSES = multiprocessing.get_context("forkserver")


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

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.outcomes.total()

    def take(self, what: str, where: str) -> None:
        """Count an outcome; of a failure, keep a line that says where it was."""
        kind, _, why = what.partition(": ")
        self.outcomes[kind] += 1
        if kind == "failed":
            self.failures.append(f"{where}: {' '.join(why.split())[-300:]}")

    def row(self) -> tuple[str, ...]:
        """Return its row of the table."""
        counts = [self.cases, *(self.outcomes[what] for what in ("refused", "accepted", "failed"))]
        worst = (f"{self.slowest:.1f} s", f"{self.growth >> 20} MiB") if self.growth else ("", "")
        return self.name, *map(str, counts), *worst


def run_cases(kind: str, seed: int, cases: range, folder: Path, kept: Path) -> Found:
    """Read cases of a kind below a folder; the files of those that fail are kept in another."""
    found, crashes = Found(kind), 0
    place = folder / kind
    place.mkdir(parents=True)
    while cases and crashes < _MOST_CRASHES:
        receives, sends = _PROCESSES.Pipe(duplex=False)
        process = _PROCESSES.Process(
            target=work, args=(kind, seed, cases, place, kept.resolve(), sends)
        )
        process.start()
        sends.close()
        ready, why = False, ""
        try:
            while receives.poll(PATIENCE):
                outcome: Outcome | None = receives.recv()
                ready = True
                if outcome is not None:
                    _take(found, outcome, seed)
                    cases = range(outcome.case + 1, cases.stop)
            why = f"nothing came of it for {PATIENCE} s"
        except EOFError:
            process.join(PATIENCE)
        process.kill()
        process.join()
        if cases:  # it ended in the middle of one
            said = (place / "cache" / "said").read_text("utf-8", "replace")[-3000:]
            assert ready, f"{kind}: no case could be made.\n{said}"
            crashes += 1
            why = f"failed: the process ended: {why or f'exit {process.exitcode}'}"
            _take(found, Outcome(cases.start, why, said), seed)
            keep(place / "box", kept / f"{kind}-{cases.start}", said)
            cases = cases[1:]
    return found


def _take(found: Found, outcome: Outcome, seed: int) -> None:
    found.slowest = max(found.slowest, outcome.seconds)
    found.growth = max(found.growth, outcome.growth)
    last = (outcome.told.strip().splitlines() or [""])[-1]
    found.take(f"{outcome.what}: {last}", f"{found.name} {outcome.case} of seed {seed}")
