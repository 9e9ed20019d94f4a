"""Records as JSON: what `--json` writes for versions, bases, aliases and the disk."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefreg.cli.options import Common
from prefreg.files import human_size
from prefreg.progress import Progress
from prefreg.registry import (
    AliasEvent,
    BaseIdentity,
    BaseRecord,
    DiskUse,
    VersionRecord,
    VersionSummary,
)


def base_view(record: BaseRecord) -> dict[str, Any]:
    """Describe a base model that the registry knows."""
    return identity_view(record) | {"created": record.created.isoformat()}


def identity_view(record: BaseIdentity) -> dict[str, Any]:
    """Describe a base model."""
    return {
        "name": record.name,
        "revision": record.revision,
        "path": record.path,
        "weights": record.weights,
        "tokenizer": record.tokenizer,
        "template": record.template,
        "parameters": record.parameters,
        "dtype": record.dtype,
    }


def version_summary(record: VersionSummary) -> dict[str, Any]:
    """Describe a version without its training record."""
    return {
        "axis": record.axis,
        "version": record.number,
        "axis_aliases": list(record.axis_aliases),
        "aliases": list(record.aliases),
        "kind": record.kind,
        "dtype": record.dtype,
        "sha256": record.sha256,
        "size": record.size,
        "inline": record.inline,
        "base": {"name": record.base.name, "weights": record.base.weights},
        "created": record.created.isoformat(),
        "note": record.note,
        "tags": list(record.tags),
    }


def version_view(record: VersionRecord) -> dict[str, Any]:
    """Describe a version with all that is known of it."""
    return version_summary(record) | {
        "base": base_view(record.base),
        "metadata": record.metadata,
        "measurements": [
            {
                "kind": item.kind,
                "value": item.value,
                "protocol": item.protocol,
                "created": item.created.isoformat(),
            }
            for item in record.measurements
        ],
    }


def alias_view(event: AliasEvent) -> dict[str, Any]:
    """Describe one change of a version alias."""
    return {
        "alias": event.alias,
        "action": event.action,
        "version": event.number,
        "base": event.base.name,
        "created": event.created.isoformat(),
    }


def disk_view(disk: DiskUse) -> dict[str, Any]:
    """Describe what a registry takes on the disk, in bytes."""
    return {
        "database": disk.database,
        "files": disk.files,
        "beside": disk.beside,
        "total": disk.total,
    }


def describe_disk(disk: DiskUse) -> str:
    """Say what a registry takes on the disk."""
    beside = f", of which {human_size(disk.beside)} beside the database" if disk.files else ""
    return f"The registry takes {human_size(disk.total)} on the disk{beside}."


def distinct_size(versions: Iterable[VersionSummary]) -> int:
    """Add up the bytes of versions; equal bytes are kept once."""
    return sum({version.sha256: version.size for version in versions}.values())


def visible(common: Common) -> bool:
    """Whether progress is shown: on a terminal, and not with --quiet."""
    return sys.stderr.isatty() and not common.quiet


@contextmanager
def byte_progress(common: Common) -> Iterator[Progress | None]:
    """Show bytes written, their speed and the time left."""
    if not visible(common):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("composing")

        def report(_: str, done: int, total: int, loss: float | None = None, /) -> None:
            bars.update(task, completed=done, total=total)

        yield report


@contextmanager
def stage_progress(common: Common) -> Iterator[Progress | None]:
    """Show a bar per stage with its steps, its loss and the time left."""
    if not visible(common):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with ExitStack() as shown:
        run, tasks = "", dict[str, TaskID]()
        bars = shown.enter_context(Bars(*columns, console=Console(stderr=True)))

        def report(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
            nonlocal run, bars
            if (of := stage.rpartition(": ")[0]) != run:
                shown.close()  # the bars of the run before stay as they are
                run, bars = of, shown.enter_context(Bars(*columns, console=Console(stderr=True)))
                tasks.clear()
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, loss="")
            said = "" if loss is None else f"loss {loss:.3f}"
            bars.update(tasks[stage], completed=done, total=total, loss=said)

        yield report
