"""Forks of one process that has loaded everything: cheap to start, bounded, and to be killed.

The process that forks has one thread and opens nothing itself, neither database nor store, so a
fork begins as a new process would, only sooner.
"""

import gc
import importlib
import multiprocessing
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Of the libraries, which read them when they are loaded: no threads, no network."""

PATIENCE = 180
"""Seconds in which nothing comes of a fork, which by then waits for something."""
FORK = multiprocessing.get_context("fork")
_LOADED = (
    "encodings.cp437", "encodings.unicode_escape", "alembic.command", "gguf", "psycopg",
    "pyarrow.parquet", "sqlite3", "torch", "transformers.models.llama.modeling_llama",
    "prefreg.api", "prefreg.composition.adapter", "prefreg.composition.compose",
    "prefreg.composition.export", "prefreg.composition.methods", "prefreg.evaluation.knowledge",
    "prefreg.models.loading", "prefreg.serving.server", "prefreg.sharing.bill",
    "prefreg.sharing.bundles", "prefreg.sharing.report", "prefreg.training.settings",
    "prefreg.vectors.lora_layers", "prefreg.vectors.peft_adapters",
)  # fmt: skip


def load() -> None:
    """Load what all forks need, once."""
    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()  # else the collector of each fork would touch, and copy, all of it


class Fork:
    """A task in a fork, which is given a connection to tell what comes of it."""

    def __init__(self, task: Callable[[Connection], None]) -> None:
        """Start it."""
        # jemalloc, which comes with pyarrow, has a thread that forks know of.
        assert threading.active_count() == 1, "only one thread may fork"
        self._hears, says = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=task, args=(says,))
        self.process.start()
        says.close()

    def hear(self) -> Any:
        """Return what it tells next.

        Raises:
            EOFError: It has ended.
            TimeoutError: Nothing comes of it.
        """
        if not self._hears.poll(PATIENCE):
            raise TimeoutError(f"nothing came of it for {PATIENCE} s")
        return self._hears.recv()

    def last(self) -> Any:
        """Return what it told before it was killed, or None: it may have said a half."""
        try:
            return self._hears.recv() if self._hears.poll() else None
        except EOFError:
            return None

    def kill(self) -> int | None:
        """End it, if it has not ended, and return its exit code."""
        self.process.kill()
        self.process.join()
        self._hears.close()
        return self.process.exitcode


def in_fork(task: Callable[[], Any]) -> Any:
    """Return what a task returns in a fork.

    Raises:
        AssertionError: It raised, ended, or nothing came of it.
    """

    def tell(says: Connection) -> None:
        be_quiet()
        try:
            says.send((True, task()))
        except BaseException:
            says.send((False, traceback.format_exc()))

    fork, why = Fork(tell), ""
    try:
        done, found = fork.hear()
    except TimeoutError as error:
        why = str(error)
    except EOFError:
        fork.process.join()
        why = f"the process ended: exit {fork.process.exitcode}"
    fork.kill()
    assert not why, why
    assert done, found
    return found


def be_quiet(said: str | Path = os.devnull) -> None:
    """Let a fork say what it says elsewhere."""
    sys.stdout.flush()
    to = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)


def processor_seconds() -> float:
    """Return what this process and all that it waited for took of the processor, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
