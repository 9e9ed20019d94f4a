"""Progress on stderr, only where somebody can see it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefreg.cli.options import Common

ByteProgress = Callable[[int, int, str], None]
StageProgress = Callable[..., None]


def visible(common: Common) -> bool:
    """Whether progress is shown: on a terminal, and not with --quiet."""
    return sys.stderr.isatty() and not common.quiet


@contextmanager
def byte_progress(common: Common) -> Iterator[ByteProgress | None]:
    """Show bytes written, their speed and the time left."""
    if not visible(common):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("composing")

        def report(done: int, total: int, _: str) -> None:
            bars.update(task, completed=done, total=total)

        yield report


@contextmanager
def stage_progress(common: Common, prefix: str = "") -> Iterator[StageProgress | None]:
    """Show a bar per stage with its steps, its loss and the time left."""
    if not visible(common):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def report(stage: str, step: int, total: int, loss: float | None = None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(prefix + stage, total=total, loss="")
            shown = "" if loss is None else f"loss {loss:.3f}"
            bars.update(tasks[stage], completed=step, total=total, loss=shown)

        yield report
