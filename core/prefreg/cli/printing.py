"""What commands write for people: figures, sizes, and bars while something runs."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from prefreg.cli.options import Common
from prefreg.cli.tables import paragraph
from prefreg.config import log_interval
from prefreg.files import human_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from prefreg.evaluation.statistics import Estimate
    from prefreg.progress import Progress
    from prefreg.registry import DiskUse, VersionSummary
    from prefreg.registry.licences import Licences


def plural(count: int, thing: str) -> str:
    """Write a count with the thing that is counted."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def human_time(seconds: float) -> str:
    """Write a duration in the units that people use."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def show(estimate: "Estimate | None", *, signed: bool = False) -> str:
    """Write an estimate with its interval, to three digits."""
    if estimate is None:
        return "-"
    sign = "+" if signed else ""
    value, low, high = estimate.value, estimate.low, estimate.high
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def show_figure(value: float | None) -> str:
    """Write a figure to three digits, or a dash where it is not defined."""
    return "-" if value is None or value != value else f"{value:.3f}"


def describe_missing(missing: Mapping[str, str]) -> list[str]:
    """Say what was not measured, and why."""
    return [
        paragraph(f"{name} was not measured: {why.rstrip('.')}.") for name, why in missing.items()
    ]


def describe_disk(disk: "DiskUse") -> str:
    """Say what a registry takes on the disk."""
    beside = f", of which {human_size(disk.beside)} beside the database" if disk.files else ""
    return f"The registry takes {human_size(disk.total)} on the disk{beside}."


def distinct_size(versions: "Iterable[VersionSummary]") -> int:
    """Add up the bytes of versions; equal bytes are kept once."""
    return sum({version.sha256: version.size for version in versions}.values())


def tell_licences(common: Common, licences: "Licences") -> None:
    """Say in one line what weights may be used for, where a licence on record limits it."""
    if licences.line:
        common.note(f"{click.style('Licences:', fg='yellow')} {licences.line}")


class Pace:
    """How long stages still take, going by what each has taken since it was first heard of."""

    def __init__(self) -> None:
        """Know of no stage yet."""
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int, int]] = {}

    def note(self, stage: str, done: int, total: int) -> None:
        """Take note of a step."""
        now = time.monotonic()
        self._begun.setdefault(stage, (now, done))
        self._last[stage] = now, done, total

    def left(self, stage: str) -> float | None:
        """Return the seconds left; None before the first step is made, and after the last."""
        if stage not in self._last:
            return None
        (start, first), (last, done, total) = self._begun[stage], self._last[stage]
        if not first < done < total:
            return None
        step, since = (last - start) / (done - first), time.monotonic() - last
        if since > 2 * step:  # it has slowed down, as behind what came from a cache
            step, since = (last + since - start) / (done - first), 0.0
        return step * (total - done) - since


@contextmanager
def progress_bars(common: Common, *, of_bytes: bool = False) -> "Iterator[Progress | None]":
    """Show how far a run is, unless --quiet: a bar a stage, or one of bytes, on a terminal.

    Elsewhere, as in a log, a line every ten seconds.
    """
    if common.quiet:
        yield None
        return
    if not sys.stderr.isatty():
        with _lines(common) as told:
            yield told
        return
    with ExitStack() as shown:
        report: Progress | None = None

        def begin(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
            nonlocal report
            if report is None:
                common.spinner.stop()
                report = _byte_bar(shown) if of_bytes else _stage_bars(shown)
            report(stage, done, total, loss)

        yield begin


@contextmanager
def _lines(common: Common) -> "Iterator[Progress]":
    """Say now and then where a run is, whether it has come further or not."""
    began, every = time.monotonic(), log_interval()
    at, pace, ended = ("loading", ""), Pace(), threading.Event()

    def report(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        nonlocal at
        said = "" if loss is None else f", loss {loss:.3f}"
        at = f"{stage} {done:,} of {total:,}{said}", stage
        pace.note(stage, done, total)

    def tell() -> None:
        while not ended.wait(every):
            where, stage = at
            left = pace.left(stage)
            until = "" if left is None else f", {human_time(left)} left"
            common.note(f"… {time.monotonic() - began:.0f} s: {where}{until}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield report
    finally:
        ended.set()
        teller.join()


def _byte_bar(shown: ExitStack) -> "Progress":
    """Show bytes written, their speed and the time left."""
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    bars = shown.enter_context(
        rich.Progress(*columns, console=Console(stderr=True), transient=True)
    )
    task = bars.add_task("composing", total=None)

    def report(_: str, done: int, total: int, loss: float | None = None, /) -> None:
        bars.update(task, completed=done, total=total)

    return report


def _stage_bars(shown: ExitStack) -> "Progress":
    """Show a bar per stage with its steps, its loss and the time left.

    rich's own column of that needs two steps within half a minute.
    """
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    class TimeLeft(rich.ProgressColumn):
        max_refresh = 0.5

        def render(self, task: rich.Task) -> Text:
            left = pace.left(task.fields["stage"])
            return Text("-" if left is None else f"{human_time(left)} left", style="cyan")

    pace = Pace()
    columns = (
        rich.TextColumn("{task.description:<28}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        TimeLeft(),
        rich.TextColumn("{task.fields[loss]}"),
    )

    def begin() -> "Bars":
        return shown.enter_context(rich.Progress(*columns, console=Console(stderr=True)))

    run, bars = "", begin()
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        nonlocal run, bars
        if (of := stage.rpartition(": ")[0]) != run:
            shown.close()  # the bars of the run before stay as they are
            run, bars = of, begin()
            tasks.clear()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, loss="", stage=stage)
        said = "" if loss is None else f"loss {loss:.3f}"
        pace.note(stage, done, total)
        bars.update(tasks[stage], completed=done, total=total, loss=said)

    return report
