"""Look at what is stored: vectors, show, bases, alias, rm."""

from typing import Any

import click

from prefreg.cli.options import REFERENCE, Common, command, human_size, sections, table
from prefreg.cli.views import alias_view, base_view, version_summary, version_view
from prefreg.errors import UsageError
from prefreg.registry import VersionRecord

Reference = tuple[str, str | None]


@command("vectors")
@click.argument("axis", required=False)
def vectors(common: Common, axis: str | None) -> None:
    """List the stored versions, of AXIS or of all axes."""
    records = common.open_registry().vectors(axis)
    rows = [
        (
            str(record),
            ",".join(record.aliases) or "-",
            record.base.name,
            record.kind,
            record.dtype,
            human_size(record.size),
            f"{record.created:%Y-%m-%d %H:%M}",
            record.note or "",
        )
        for record in records
    ]
    headers = ("VERSION", "ALIASES", "BASE", "KIND", "DTYPE", "SIZE", "CREATED", "NOTE")
    text = table(headers, rows) if rows else "No vectors yet. Add one with 'prefreg add-axis'."
    common.emit("vectors", {"vectors": [version_summary(record) for record in records]}, text)


@command("show")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
def show(common: Common, reference: Reference) -> None:
    """Show the full record of one version; the newest without @V."""
    record = common.open_registry().show(*reference)
    common.emit("show", version_view(record), _describe(record))


def _describe(record: VersionRecord) -> str:
    fields: dict[str, object] = {
        "version": record,
        "also called": ", ".join(record.axis_aliases) or "-",
        "aliases": ", ".join(record.aliases) or "-",
        "kind": f"{record.kind}, {record.dtype}, {human_size(record.size)}",
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
        measured = {item.kind: f"{item.value} ({item.protocol})" for item in record.measurements}
        lines.append("\nmeasurements:\n" + "\n".join(_indent(measured)))
    return "\n".join(lines)


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
    """List the base models that the registry knows."""
    records = common.open_registry().bases()
    rows = [
        (
            record.name,
            (record.revision or "-")[:12],
            f"{record.parameters:,}",
            record.dtype,
            record.weights[:12],
            record.path or "-",
        )
        for record in records
    ]
    headers = ("BASE", "REVISION", "PARAMETERS", "DTYPE", "WEIGHTS", "PATH")
    text = table(headers, rows) if rows else "No bases yet. 'prefreg add-axis' records one."
    common.emit("bases", {"bases": [base_view(record) for record in records]}, text)


@command("alias")
@click.argument("reference", type=REFERENCE, metavar="AXIS[@V]")
@click.argument("alias", required=False)
@click.option("--delete", is_flag=True, help="Delete the alias; its history is kept.")
def alias(common: Common, reference: Reference, alias: str | None, delete: bool) -> None:
    """Point ALIAS at a version, or show the history of an axis' aliases without one.

    `prefreg alias helpful@3 stable` names version 3; `prefreg alias helpful@stable --delete`
    deletes the name.
    """
    registry = common.open_registry()
    axis, version = reference
    if delete:
        name = alias or version
        if name is None or name.isdigit():
            raise UsageError("Say which alias to delete, as in 'prefreg alias helpful@stable'.")
        registry.unalias(axis, name)
        common.emit("alias", {"axis": axis, "alias": name, "version": None}, f"Deleted {name}.")
    elif alias is None:
        events = registry.alias_history(axis)
        rows = [
            (f"{event.created:%Y-%m-%d %H:%M}", event.alias, event.action, event.number or "-")
            for event in events
        ]
        text = table(("WHEN", "ALIAS", "ACTION", "VERSION"), rows)
        common.emit("alias", {"axis": axis, "history": list(map(alias_view, events))}, text)
    else:
        record = registry.alias(axis, _number(reference), alias)
        data = {"axis": record.axis, "alias": alias, "version": record.number}
        common.emit("alias", data, f"{record.axis}@{alias} is now {record}.")


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
