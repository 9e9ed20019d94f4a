"""How long work tells how far it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Protocol


class Progress(Protocol):
    """A callback: the stage, how much of it is done, of how much and, in training, the loss.

    Of a composition, the stage is the weight just written, and what is counted are bytes.
    """

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        """Take note of a step."""


class Steps(Protocol):
    """A callback for the steps of one stage."""

    def __call__(self, done: int, total: int, loss: float | None = None, /) -> None:
        """Take note of a step."""


def steps_of(progress: Progress | None, stage: str) -> Steps | None:
    """Return what is told the steps of a stage; None where nobody looks."""
    return None if progress is None else partial(progress, stage)


def progress_of(progress: Progress | None, run: str) -> Progress | None:
    """Return what is told the stages of one run of several: each is called `RUN: STAGE`."""
    if progress is None:
        return None

    def report(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        progress(f"{run}: {stage}", done, total, loss)

    return report


_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(progress: Progress | None) -> Iterator[None]:
    """Let a callback hear of work that nobody asked for by itself, such as unpacking a base."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(stage: str, done: int, total: int) -> None:
    """Say how far such work is, to whoever listens."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total)
