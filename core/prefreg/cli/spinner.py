"""A sign of life on the terminal, until there is something to show."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_DELAY = 0.1
"""Seconds before it shows: with the start of the program, a fifth of one for the user."""
_TURN = 0.1
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR = "\r\x1b[K"


class Spinner:
    """A turning sign with the seconds gone by, on stderr.

    It is written by hand: rich, which draws the bars, takes longer to load than most commands run.
    """

    def __init__(self) -> None:
        """Stand still."""
        self.label = ""
        self._stopped = threading.Event()
        self._line = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to turn, and say what is under way, which `label` has."""
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    @property
    def turning(self) -> bool:
        """Whether it is to be seen."""
        return self._thread is not None

    def stop(self) -> None:
        """Leave nothing on the line, for good."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for a line of text."""
        with self._line:
            if self._thread is not None:
                _write("")
            yield

    def _turn(self) -> None:
        begun = time.monotonic()
        if self._stopped.wait(_DELAY):
            return
        for frame in itertools.cycle(_FRAMES):
            seconds = int(time.monotonic() - begun)
            with self._line:
                _write(f"{frame} {self.label}, {seconds} s" if seconds else f"{frame} {self.label}")
            if self._stopped.wait(_TURN):
                break
        _write("")


def _write(text: str) -> None:
    sys.stderr.write(_CLEAR + text)
    sys.stderr.flush()
