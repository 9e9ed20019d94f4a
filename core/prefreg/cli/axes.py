"""Axes: which are installed, where from, and why a plugin brings none."""

from typing import Any

import click

from prefreg.cli.options import Common, command, table
from prefreg.errors import UsageError
from prefreg.plugins import Plugin, disable, enable


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


COMMANDS = (axes,)
