"""Care for what is stored: search, tag, rename, copy, backup."""

from pathlib import Path
from typing import Any

import click

from prefreg.cli import completing
from prefreg.cli.options import (
    REFERENCE,
    Common,
    FiniteRange,
    Reference,
    base_option,
    command,
)
from prefreg.cli.printing import describe_disk, plural, progress_bars
from prefreg.cli.tables import sections, table
from prefreg.errors import RegistryError, UsageError
from prefreg.files import human_size


@command("search")
@click.argument("text", required=False)
@click.option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    shell_complete=completing.TAGS,
    help="Has this tag; may be repeated.",
)
@click.option("--note", metavar="WORDS", help="Has these words in its note.")
@base_option("Part of the base's name, or the beginning of its fingerprint.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="BOUND",
    help="A bound on a number, as in 'accuracy>=0.7'; may be repeated.",
)
def search(common: Common, text: str | None, **conditions: Any) -> None:
    """Find versions that have every word of TEXT in their name, aliases, tags, note or base.

    A metric is a number in the record of the training or in a measurement. It is named by its
    dotted path or by the end of it, as in poles.positive.report.accuracy.
    """
    found = common.open_registry().search(text, **conditions)
    rows = [
        (
            str(item.version),
            ",".join(item.version.tags) or "-",
            item.version.base.name,
            human_size(item.version.size),
            " ".join(f"{path}={value:.6g}" for path, value in item.metrics.items()) or "-",
            item.version.note or "",
        )
        for item in found
    ]
    headers = ("VERSION", "TAGS", "BASE", "SIZE", "METRICS", "NOTE")
    data = [item.version.summary() | {"metrics": dict(item.metrics)} for item in found]
    text = (
        table(headers, rows, spare=("NOTE", "SIZE", "BASE", "TAGS")) if rows else "Nothing found."
    )
    common.emit("search", {"vectors": data}, text, asked=True)


@command("tag")
@click.argument("reference", type=REFERENCE, metavar="AXIS@V")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@click.option("--delete", is_flag=True, help="Take the tags away.")
def tag(common: Common, reference: Reference, tags: tuple[str, ...], delete: bool) -> None:
    """Give tags to a version, or take them away."""
    axis, version = reference
    if version is None:
        raise UsageError(f"Say which version, as in {axis}@1.")
    record = common.open_registry().tag(axis, version, *tags, remove=delete)
    data = {"axis": record.axis, "version": record.number, "tags": list(record.tags)}
    common.emit("tag", data, f"{record} has the tags: {', '.join(record.tags) or 'none'}.")


@command("rename")
@click.argument("old", shell_complete=completing.STORED_AXES)
@click.argument("new")
def rename(common: Common, old: str, new: str) -> None:
    """Rename an axis with all its versions; OLD goes on meaning it."""
    before = common.open_registry().rename(old, new)
    common.emit("rename", {"axis": new, "before": before}, f"{before} is now {new}.")


@command("copy")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
@click.option("--to", "target", required=True, metavar="REGISTRY", help="Path or SQLAlchemy URL.")
@click.option("--as", "name", metavar="NAME", help="Name of the axis there.")
@click.option("--renumber", is_flag=True, help="Take the next number there.")
def copy(
    common: Common, reference: Reference, target: str, name: str | None, renumber: bool
) -> None:
    """Copy a version with its bytes, record, tags and measurements to another registry.

    REGISTRY is created if need be. The version keeps its number where that is free there.
    """
    done = common.open_registry().copy(*reference, target, name=name, renumber=renumber)
    data = done.record.summary() | {"registry": done.registry, "added": done.added}
    size = human_size(done.record.size)
    text = (
        f"Copied to {done.registry} as {done.record} ({size})."
        if done.added
        else f"Nothing to do: it is {done.record} in {done.registry} already ({size})."
    )
    common.emit("copy", data, text)


@command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE, if it is a registry.")
def backup(common: Common, file: Path, overwrite: bool) -> None:
    """Write a verified snapshot of the registry to FILE, while others may write."""
    done = common.open_registry().backup(file, overwrite=overwrite)
    data = {
        "file": str(done.path),
        "versions": done.versions,
        "files": done.files,
        "bytes": done.bytes,
    }
    beside = f", {plural(done.files, 'vector')} beside it" if done.files else ""
    count = plural(done.versions, "version")
    text = f"Backed up {count} to {file} ({human_size(done.bytes)}{beside})."
    common.emit("backup", data, text)


@command("report")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for the pages.",
)
@click.option("--overwrite", is_flag=True, help="Replace DIR, if prefreg wrote it.")
def report(common: Common, output: Path, overwrite: bool) -> None:
    """Write a site of the registry: pages for a browser, which need no server and no network.

    It shows axes, versions, what they came from, what was measured, how vectors lie to each
    other, presets, bases and licences.
    """
    with progress_bars(common) as progress:
        done = common.open_registry().report(output, overwrite=overwrite, progress=progress)
    count, pages = plural(done.versions, "version"), plural(done.pages, "page")
    text = f"Wrote {pages} on {count} ({human_size(done.size)}): open {output / 'index.html'}."
    common.emit("report", done.to_json(), text)


@command("verify")
def verify(common: Common) -> None:
    """Check every byte of the registry against its hash."""
    problems = common.open_registry().verify()
    if problems:
        raise RegistryError(
            f"{plural(len(problems), 'problem')} found:\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    common.emit("verify", {"problems": []}, "Every version has its bytes, and every hash agrees.")


@command("gc")
@click.option(
    "--cache",
    is_flag=True,
    help="Empty the cache too: fingerprints, reference scores, dequantised GGUF files, and runs "
    "that were not finished.",
)
@click.option(
    "--grace",
    type=FiniteRange(0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="Leave bytes in a store that are younger: whoever put them may not have written the "
    "version yet.",
)
def gc(common: Common, cache: bool, grace: float) -> None:
    """Remove the bytes that no version needs, and what killed processes left.

    That is in the folder of the registry and in that of temporary files.
    """
    registry = common.open_registry()
    report, disk = registry.gc(grace=grace * 3600), registry.disk_use()
    data: dict[str, Any] = {"files": report.files, "bytes": report.bytes, "disk": disk.to_json()}
    text = (
        f"Removed {plural(report.files, 'file')} and gave {human_size(report.bytes)} back. "
        f"{describe_disk(disk)}"
    )
    if cache:
        from prefreg import api

        emptied = api.empty_cache()
        data["cache_bytes"] = emptied.bytes
        data["runs"] = [
            {"run": run.about, "bytes": run.bytes, "busy": run.busy} for run in emptied.runs
        ]
        text += f" Emptied the cache ({human_size(emptied.bytes)})."
        for run in emptied.runs:
            done = "is under way and stays" if run.busy else "was not finished and is gone"
            text += f"\nThe run {run.about} ({human_size(run.bytes)}) {done}."
    common.emit("gc", data, text)


@command("doctor")
def doctor(common: Common) -> None:
    """Look at the environment, the registry, the disk and the plugins."""
    report = common.open_registry().doctor()
    lines = [sections(report.facts)]
    problem = click.style("Problem:", fg="red")
    lines += [f"\n{problem} {each}" for each in report.problems]
    if not report.problems:
        lines.append("\nNo problems found.")
    data = {"facts": report.facts, "problems": list(report.problems)}
    common.emit("doctor", data, "\n".join(lines), asked=True)


COMMANDS = [tag, rename, copy, backup, verify, gc]
