"""Care for what is stored: search, tag, rename, copy, backup."""

import click

from prefreg.cli.options import REFERENCE, Common, command, human_size, table
from prefreg.cli.views import version_summary


@command("search")
@click.argument("text", required=False)
@click.option("--tag", "tags", multiple=True, help="Has this tag; may be repeated.")
@click.option("--note", help="Has these words in its note.")
@click.option("--base", help="Part of the base's name, or the beginning of its fingerprint.")
@click.option("--metric", "metrics", multiple=True, help="A bound, as in 'accuracy>=0.7'.")
def search(
    common: Common,
    text: str | None,
    tags: tuple[str, ...],
    note: str | None,
    base: str | None,
    metrics: tuple[str, ...],
) -> None:
    """Find versions by words, tags, notes, base and numbers that were measured."""
    from prefreg.registry.searching import Query, parse_metric

    query = Query(text, tags, note, base, tuple(map(parse_metric, metrics)))
    records = [record for record in common.open_registry().vectors() if query.matches(record)]
    rows = [
        (str(r), ",".join(r.tags) or "-", r.base.name, human_size(r.size), r.note or "")
        for r in records
    ]
    shown = table(("VERSION", "TAGS", "BASE", "SIZE", "NOTE"), rows) if rows else "Nothing found."
    data = [version_summary(r) | {"tags": list(r.tags)} for r in records]
    common.emit("search", {"vectors": data}, shown)


@command("tag")
@click.argument("reference", type=REFERENCE, metavar="AXIS@V")
@click.argument("tags", nargs=-1, required=True)
@click.option("--delete", is_flag=True, help="Take the tags away.")
def tag(
    common: Common, reference: tuple[str, str | None], tags: tuple[str, ...], delete: bool
) -> None:
    """Give TAGS to a version, or take them away."""
    access = common.open_registry().access
    with access.changing() as store:
        record = store.resolve(*reference)
        record = store.tag(record.axis, record.number, tags, remove=delete)
    data = {"axis": record.axis, "version": record.number, "tags": list(record.tags)}
    common.emit("tag", data, f"{record} has the tags: {', '.join(record.tags) or 'none'}.")


@command("rename")
@click.argument("old")
@click.argument("new")
def rename(common: Common, old: str, new: str) -> None:
    """Rename an axis with all its versions; OLD goes on meaning it."""
    with common.open_registry().access.changing() as store:
        before = store.rename_axis(old, new)
    common.emit("rename", {"axis": new, "before": before}, f"{before} is now {new}.")


@command("copy")
@click.argument("reference", type=REFERENCE, metavar="AXIS@V")
@click.option("--to", "target", required=True, metavar="REGISTRY", help="Path or SQLAlchemy URL.")
@click.option("--as", "name", help="Name of the axis there.")
@click.option("--renumber", is_flag=True, help="Take the next number there.")
def copy(
    common: Common,
    reference: tuple[str, str | None],
    target: str,
    name: str | None,
    renumber: bool,
) -> None:
    """Copy a version with its bytes, record and measurements to another registry."""
    from prefreg.registry import Store

    with common.open_registry().access.reading() as source:
        record = source.resolve(*reference)
        with Store.open(target, write=True) as destination:
            done = source.copy_to(destination, record, axis=name, renumber=renumber)
            location = destination.location
    data = version_summary(done.record) | {"registry": location, "added": done.added}
    verb = "Copied" if done.added else "Nothing to do:"
    common.emit(
        "copy", data, f"{verb} {record} is {done.record} in {location} ({human_size(record.size)})."
    )


@command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
def backup(common: Common, file: str, overwrite: bool) -> None:
    """Write a verified snapshot of the registry to FILE, while others may write."""
    from pathlib import Path

    with common.open_registry().access.reading() as store:
        done = store.back_up(Path(file), overwrite=overwrite)
    data = {
        "file": str(done.path),
        "versions": done.versions,
        "files": done.files,
        "bytes": done.bytes,
    }
    common.emit("backup", data, f"{done.versions} versions ({human_size(done.bytes)}) in {file}.")


COMMANDS = (search, tag, rename, copy, backup)
