"""Look at what is stored: vectors, show, bases, alias, rm."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from prefreg.cli.options import AT, REFERENCE, Common, command, human_size, sections, table
from prefreg.cli.views import (
    alias_view,
    base_view,
    describe_disk,
    disk_view,
    distinct_size,
    version_summary,
    version_view,
)
from prefreg.errors import UsageError
from prefreg.registry import VersionRecord, VersionSummary

Reference = tuple[str, str | None]


@command("vectors")
@click.argument("axis", required=False)
def vectors(common: Common, axis: str | None) -> None:
    """List the stored versions, of AXIS or of all axes."""
    registry = common.open_registry()
    records = registry.summaries(axis)
    rows = [
        (
            str(record),
            ",".join(record.aliases) or "-",
            record.base.name,
            record.kind,
            record.dtype,
            human_size(record.size),
            f"{record.created:%Y-%m-%d %H:%M}",
            ",".join(record.tags) or "-",
            record.note or "",
        )
        for record in records
    ]
    headers = ("VERSION", "ALIASES", "BASE", "KIND", "DTYPE", "SIZE", "CREATED", "TAGS", "NOTE")
    size, disk = distinct_size(records), registry.disk_use()
    text = "No vectors yet. Add one with `prefreg add-axis`."
    if rows:
        count = f"{len(rows)} version{'' if len(rows) == 1 else 's'}, {human_size(size)}"
        text = f"{table(headers, rows)}\n\n{count}. {describe_disk(disk)}"
    data = {
        "vectors": [version_summary(record) for record in records],
        "bytes": size,
        "disk": disk_view(disk),
    }
    common.emit("vectors", data, text, asked=True)


@command("show")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
@click.option("--base", help="Base model: its name, folder, hub id or fingerprint.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw how its poles were trained.",
)
@AT
def show(
    common: Common, reference: Reference, base: str | None, plot: Path | None, at: datetime | None
) -> None:
    """Show the full record of one version; the newest without @V."""
    registry = common.open_registry()
    record, disk = registry.show(*reference, base=base, at=at), registry.disk_use()
    if plot is not None:
        from prefreg.flows.plotting import plot_version

        plot_version(record, plot)
        common.note(f"Drew {plot}.")
    text = f"{_describe(record)}\n\n{describe_disk(disk)}"
    common.emit("show", version_view(record) | {"disk": disk_view(disk)}, text, asked=True)


def _describe(record: VersionRecord) -> str:
    fields: dict[str, object] = {
        "version": record,
        "also called": ", ".join(record.axis_aliases) or "-",
        "aliases": ", ".join(record.aliases) or "-",
        "tags": ", ".join(record.tags) or "-",
        "kind": f"{record.kind}, {record.dtype}",
        "size": f"{human_size(record.size)} {'inside' if record.inline else 'beside'} the database",
        "sha256": record.sha256,
        "base": record.base.name + (f"@{record.base.revision}" if record.base.revision else ""),
        "base weights": record.base.weights,
        "created": f"{record.created:%Y-%m-%d %H:%M:%S %Z}",
        "note": record.note or "-",
    }
    lines = [sections(fields)]
    for name, value in record.metadata.items():
        lines.append(f"\n{name}:\n" + "\n".join(_indent(value)))
    if record.measurements:
        measured = {
            item.kind: f"{_numbers(item.value)} ({item.protocol})" for item in record.measurements
        }
        lines.append("\nmeasurements:\n" + "\n".join(_indent(measured)))
    return "\n".join(lines)


def _numbers(value: Any) -> str:
    """Write a measurement without what it is made of, which --json has."""
    if not isinstance(value, dict):
        return str(value)
    plain = {key: each for key, each in value.items() if isinstance(each, int | float | str)}
    return ", ".join(f"{key} {_brief(each)}" for key, each in plain.items()) or "see --json"


def _indent(value: Any, depth: int = 1) -> list[str]:
    pad = "  " * depth
    if not isinstance(value, dict):
        return [f"{pad}{_brief(value)}"]
    lines = []
    for name, item in value.items():
        if isinstance(item, dict) and len(item) <= 12:
            lines += [f"{pad}{name}:", *_indent(item, depth + 1)]
        else:
            lines.append(f"{pad}{name}: {_brief(item)}")
    return lines


def _brief(value: Any) -> str:
    if isinstance(value, dict | list) and len(value) > 12:
        return f"{len(value)} entries (see --json)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@command("bases")
def bases(common: Common) -> None:
    """List the base models that the registry knows, with the vectors on each."""
    registry = common.open_registry()
    records, disk = registry.bases(), registry.disk_use()
    on_base: dict[str, list[VersionSummary]] = {}
    for version in registry.summaries():
        on_base.setdefault(version.base.weights, []).append(version)
    counted = [
        (
            record,
            len(on_base.get(record.weights, ())),
            distinct_size(on_base.get(record.weights, ())),
        )
        for record in records
    ]
    rows = [
        (
            record.name,
            (record.revision or "-")[:12],
            f"{record.parameters:,}",
            record.dtype,
            record.weights[:12],
            versions,
            human_size(size),
            record.path or "-",
        )
        for record, versions, size in counted
    ]
    headers = ("BASE", "REVISION", "PARAMETERS", "DTYPE", "WEIGHTS", "VERSIONS", "SIZE", "PATH")
    text = "No bases yet. `prefreg add-axis` records one."
    if rows:
        text = f"{table(headers, rows)}\n\n{describe_disk(disk)}"
    data = {
        "bases": [
            base_view(record) | {"versions": versions, "bytes": size}
            for record, versions, size in counted
        ],
        "disk": disk_view(disk),
    }
    common.emit("bases", data, text, asked=True)


@command("alias")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
@click.argument("alias", required=False)
@click.option("--delete", is_flag=True, help="Delete the alias; its history is kept.")
@click.option("--base", help="With --delete, where several bases have the alias.")
@AT
def alias(
    common: Common,
    reference: Reference,
    alias: str | None,
    delete: bool,
    base: str | None,
    at: datetime | None,
) -> None:
    """Point ALIAS at a version, or show the history of an axis' aliases without one.

    `prefreg alias helpful@3 stable` names version 3; `prefreg alias helpful@stable --delete`
    deletes the name. `prefreg alias helpful@stable` shows the history of one alias, and --at
    where it stood.
    """
    if at is not None and (alias or delete):
        raise UsageError("--at looks at the history; an alias can be changed only now.")
    if base is not None and not delete:
        raise UsageError("--base goes with --delete: a version says which base an alias is for.")
    if delete:
        _delete_alias(common, reference, alias, base)
    elif alias is None:
        _show_history(common, reference, at)
    else:
        record = common.open_registry().alias(reference[0], _number(reference), alias)
        data = {"axis": record.axis, "alias": alias, "version": record.number}
        common.emit("alias", data, f"{record.axis}@{alias} is now {record}.")


def _delete_alias(
    common: Common, reference: Reference, alias: str | None, base: str | None
) -> None:
    axis, version = reference
    name = alias or version
    if name is None or name.isdigit():
        raise UsageError("Say which alias to delete, as in `prefreg alias helpful@stable`.")
    common.open_registry().unalias(axis, name, base=base)
    common.emit("alias", {"axis": axis, "alias": name, "version": None}, f"Deleted {name}.")


def _show_history(common: Common, reference: Reference, at: datetime | None) -> None:
    axis, name = reference
    if name is not None and name.isdigit():
        raise UsageError(f"Say what to call it, as in `prefreg alias {axis}@{name} stable`.")
    events = common.open_registry().alias_history(axis, name, at=at)
    rows = [
        (
            f"{event.created:%Y-%m-%d %H:%M}",
            event.alias,
            event.action,
            event.number or "-",
            event.base.name,
        )
        for event in events
    ]
    headers = ("WHEN", "ALIAS", "ACTION", "VERSION", "BASE")
    text = table(headers, rows) if rows else f"No version of {axis} was ever given an alias."
    common.emit("alias", {"axis": axis, "history": list(map(alias_view, events))}, text, asked=True)


@command("rm")
@click.argument("reference", type=REFERENCE, metavar="AXIS@V")
@click.option("--force", is_flag=True, help="Remove it even if an alias names it.")
def rm(common: Common, reference: Reference, force: bool) -> None:
    """Remove a version. Its number is never used again."""
    record = common.open_registry().remove(reference[0], _number(reference), force=force)
    data = {"axis": record.axis, "version": record.number, "sha256": record.sha256}
    common.emit("rm", data, f"Removed {record}.")


def _number(reference: Reference) -> int:
    axis, version = reference
    if version is None or not version.isdigit():
        raise UsageError(f"Give the version by its number, as in {axis}@1.")
    return int(version)


COMMANDS = (vectors, show, bases, alias, rm)
