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
from contextlib import suppress
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
    "pyarrow.parquet", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite",
    "sqlite3", "torch", "transformers.models.llama.modeling_llama",
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
        try:
            return self._hears.recv()
        except EOFError:
            self.process.join()
            raise EOFError(f"the process ended: exit {self.process.exitcode}") from None

    def kill(self) -> Any:
        """End it, if it has not ended; return what it told last and nobody heard, or None."""
        self.process.kill()
        self.process.join()
        with self._hears, suppress(EOFError):  # after all that it said, or in the middle of it
            return self._hears.recv()


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

    fork = Fork(tell)
    try:
        done, found = fork.hear()
    except (EOFError, TimeoutError) as error:
        done, found = False, str(error)
    fork.kill()
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
