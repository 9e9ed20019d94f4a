"""Axes: which are installed, where from, and why a plugin brings none."""

import shlex
from pathlib import Path
from typing import Any

import click

from prefreg.authoring.scaffold import NewPackage, write_package
from prefreg.axes.catalog import Plugin
from prefreg.axes.discovery import disable, enable
from prefreg.axes.plugins import load_axes
from prefreg.cli.options import Common, command, table
from prefreg.errors import UsageError


@command("axes")
@click.option("--disable", "unwanted", metavar="NAME", help="Never import this plugin again.")
@click.option("--enable", "wanted", metavar="NAME", help="Import this plugin again.")
def axes(common: Common, unwanted: str | None, wanted: str | None) -> None:
    """List the installed axes, where they come from, and broken and disabled plugins.

    NAME is that of a plugin, of its distribution, or DISTRIBUTION:PLUGIN.
    """
    if unwanted is not None and wanted is not None:
        raise UsageError("--disable and --enable go one at a time.")
    if unwanted is not None:
        key = disable(unwanted)
        text = f"Disabled {key}. `prefreg axes --enable {key}` takes that back."
        common.emit("axes", {"plugin": key, "state": "disabled"}, text)
    elif wanted is not None:
        key = enable(wanted)
        common.emit("axes", {"plugin": key, "state": "enabled"}, f"Enabled {key}.")
    else:
        _list(common)


def _list(common: Common) -> None:
    reports, others = common.open_registry().axes()
    broken = [plugin for plugin in others if not plugin.disabled]
    disabled = [plugin for plugin in others if plugin.disabled]
    data = {
        "axes": [
            {
                "name": report.installed.axis.name,
                "summary": report.installed.axis.summary,
                "aliases": list(report.installed.axis.aliases),
                "sources": list(report.installed.axis.sources),
                "licence": ", ".join(report.installed.axis.licences) or None,
                "versions": report.versions,
                **_origin(report.installed.plugin),
            }
            for report in reports
        ],
        "broken": [_origin(plugin) | {"reason": plugin.error} for plugin in broken],
        "disabled": [_origin(plugin) for plugin in disabled],
    }
    rows: list[tuple[object, ...]] = [
        (
            report.installed.axis.name,
            ",".join(report.installed.axis.aliases) or "-",
            report.versions,
            f"{report.installed.plugin.distribution} {report.installed.plugin.version}",
            ", ".join(report.installed.axis.licences) or "-",
            "ok",
            ",".join(report.installed.axis.sources),
            report.installed.axis.summary,
        )
        for report in reports
    ]
    headers = ("AXIS", "ALIASES", "VERSIONS", "FROM", "LICENCE", "STATE", "SOURCES", "SUMMARY")
    lines = [table(headers, rows) if rows else "No axes are installed."]
    lines += [f"broken: {_named(plugin)}: {plugin.error}" for plugin in broken]
    lines += [f"disabled: {_named(plugin)}" for plugin in disabled]
    common.emit("axes", data, "\n".join(lines), asked=True)


def _origin(plugin: Plugin) -> dict[str, Any]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "distribution_version": plugin.version,
    }


def _named(plugin: Plugin) -> str:
    return f"{plugin.name} from {plugin.distribution} {plugin.version}"


GATE = 3


@command("check-axis")
@click.argument("name", metavar="NAME_OR_YAML")
@click.option("--source", help="One of the axis' sources.  [default: pocket, else the first]")
@click.option(
    "--limit", type=click.IntRange(1), default=500, show_default=True, help="Rows to check."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the request.")
@click.option("--train/--no-train", default=True, help="Whether to try ten steps of training.")
@click.option(
    "--accept-licence", is_flag=True, help="Use data whose licence forbids commercial use."
)
def check_axis(
    common: Common,
    name: str,
    source: str | None,
    limit: int,
    seed: int,
    train: bool,
    accept_licence: bool,
) -> int:
    """Check what an axis must keep: rows, labels, switch, splits, tokens, ten training steps.

    Exit code 3 says that a check failed; the report is written all the same.
    """
    from prefreg.authoring.conformance import check_axis
    from prefreg.axes.find import find_axis
    from prefreg.axes.row_sources import check_licence
    from prefreg.checkpoints.bundled import DEFAULT_BASE
    from prefreg.data.wanted import default_source

    axis = find_axis(name).installed.axis
    read = default_source(axis, DEFAULT_BASE) if source is None else source
    if read in axis.sources and (shown := check_licence(axis, read, accepted=accept_licence)):
        common.note(shown)
    report = check_axis(axis, source, limit, seed, train)
    common.emit("check-axis", report.to_json(), str(report), asked=True)
    return 0 if report.passed else GATE


@command("new-axis")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the package, new or empty.  [default: prefreg-axis-NAME]",
)
def new_axis(common: Common, name: str, output: Path | None) -> None:
    """Write a complete package for a new axis: sample data, tests, licence, workflows."""
    made = write_package(name, output, load_axes())
    data = {
        "axis": made.axis,
        "distribution": made.distribution,
        "package": made.package,
        "folder": str(made.folder),
        "files": list(made.files),
        "next": _next(made),
    }
    written = f"Wrote {made.folder} ({len(made.files)} files). Next:"
    common.emit("new-axis", data, "\n  ".join([written, *_next(made)]))


def _next(made: NewPackage) -> list[str]:
    from prefreg.checkpoints.bundled import DEFAULT_BASE

    # A relative path needs its dot: pip takes a bare name for one on the index.
    folder = str(made.folder) if made.folder.is_absolute() else f"./{made.folder}"
    return [
        f"pip install -e {shlex.quote(folder + '[dev]')}",
        f"prefreg check-axis {made.axis}",
        f"prefreg add-axis {made.axis} --base {DEFAULT_BASE}",
    ]


COMMANDS = [axes, check_axis, new_axis]
