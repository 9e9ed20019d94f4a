"""Checkpoints of a pole in training: saved by the clock, checked before they are used."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from prefreg.files import hash_file, write_whole
from prefreg.training.pole_checks import Watch

INTERVAL = 60.0
"""Seconds between two checkpoints, at least."""
_SHARE = 20
"""Training lasts this many times as long as saving, so that it is not slowed noticeably."""
_MARK = "complete.json"

Note = Callable[[str], None]


class Checkpoints(TrainerCallback):
    """Lets the trainer save now and then, keeps the newest whole checkpoint, and finds it again."""

    def __init__(self, folder: Path, *, watch: Watch | None, note: Note | None) -> None:
        """Keep checkpoints below `folder`, with what the watch has seen."""
        self.folder = folder
        self.interrupted = False
        self._watch = watch
        self._note = note
        self._pause = INTERVAL
        self._last = self._began = time.monotonic()

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint; older, unfinished and damaged ones are removed."""
        found = sorted(self.folder.glob("checkpoint-*"), key=_step, reverse=True)
        for place, checkpoint in enumerate(found):
            if self._is_whole(checkpoint):
                for older in found[place + 1 :]:
                    shutil.rmtree(older, ignore_errors=True)
                if self._watch is not None:
                    self._watch.load(checkpoint)
                return checkpoint
            shutil.rmtree(checkpoint, ignore_errors=True)
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint where one is due, or somebody wants to stop."""
        if self.interrupted:
            control.should_training_stop = True
        due = time.monotonic() - self._last >= self._pause
        if (due or self.interrupted) and not (self._watch and self._watch.stop):
            control.should_save = int(state.global_step) < int(state.max_steps)
            self._began = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole, then remove the one before."""
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        if self._watch is not None:
            self._watch.save(checkpoint)
        sums = {path.name: hash_file(path) for path in sorted(checkpoint.iterdir())}
        write_whole(checkpoint / _MARK, json.dumps(sums))
        for other in self.folder.glob("checkpoint-*"):
            if other != checkpoint:
                shutil.rmtree(other, ignore_errors=True)
        self._last = time.monotonic()
        self._pause = max(INTERVAL, _SHARE * (self._last - self._began))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C end the step and save; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _is_whole(self, checkpoint: Path) -> bool:
        try:
            sums = json.loads((checkpoint / _MARK).read_text())
        except FileNotFoundError:
            return False  # the process was ended while it was written
        except (OSError, ValueError):
            sums = {}
        try:
            whole = bool(sums) and all(hash_file(checkpoint / name) == sums[name] for name in sums)
        except OSError:
            whole = False
        if not whole and self._note is not None:
            self._note(
                f"The checkpoint of step {_step(checkpoint)} in {self.folder} is damaged, so it is "
                "not used: the pole goes on from an earlier one, or from the base."
            )
        return whole


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
