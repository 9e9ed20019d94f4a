"""Care for what is stored: search, tag, rename, copy, backup."""

from pathlib import Path
from typing import Any

import click

from prefreg.cli.options import REFERENCE, Common, command, human_size, table
from prefreg.cli.views import version_summary
from prefreg.errors import UsageError

Reference = tuple[str, str | None]


@command("search")
@click.argument("text", required=False)
@click.option("--tag", "tags", multiple=True, help="Has this tag; may be repeated.")
@click.option("--note", metavar="WORDS", help="Has these words in its note.")
@click.option("--base", help="Part of the base's name, or the beginning of its fingerprint.")
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
    data = [version_summary(item.version) | {"metrics": dict(item.metrics)} for item in found]
    text = table(headers, rows) if rows else "Nothing found."
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
@click.argument("old")
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
    data = version_summary(done.record) | {"registry": done.registry, "added": done.added}
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
    beside = f", {done.files} vectors beside it" if done.files else ""
    count = f"{done.versions} version{'' if done.versions == 1 else 's'}"
    text = f"Backed up {count} to {file} ({human_size(done.bytes)}{beside})."
    common.emit("backup", data, text)


COMMANDS = (search, tag, rename, copy, backup)
