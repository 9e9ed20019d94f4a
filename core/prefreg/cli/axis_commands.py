"""Axes: which are installed, where from, what they must keep, and the package of a new one."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli import completing
from prefreg.cli.options import (
    GATE_NOT_MET,
    Common,
    WholeNumber,
    WholeRange,
    base_option,
    command,
)
from prefreg.cli.printing import plural, progress_bars
from prefreg.cli.tables import paragraph, table
from prefreg.errors import UsageError

if TYPE_CHECKING:
    from prefreg.axes.plugins import Plugin
    from prefreg.evaluation.label_audit import LabelAudit


@command("axes")
@click.option("--disable", "unwanted", metavar="NAME", help="Never import this plugin again.")
@click.option("--enable", "wanted", metavar="NAME", help="Import this plugin again.")
def axes(common: Common, unwanted: str | None, wanted: str | None) -> None:
    """List the installed axes, where they come from, and broken and disabled plugins.

    NAME is that of a plugin, of its distribution, or DISTRIBUTION:PLUGIN.
    """
    from prefreg import api

    if unwanted is not None and wanted is not None:
        raise UsageError("--disable and --enable go one at a time.")
    if unwanted is not None:
        key = api.disable_plugin(unwanted)
        text = f"Disabled {key}. `prefreg axes --enable {key}` takes that back."
        common.emit("axes", {"plugin": key, "state": "disabled"}, text)
    elif wanted is not None:
        key = api.enable_plugin(wanted)
        common.emit("axes", {"plugin": key, "state": "enabled"}, f"Enabled {key}.")
    else:
        _list_axes(common)


def _list_axes(common: Common) -> None:
    reports, others = common.open_registry().axes()
    broken = [plugin for plugin in others if not plugin.disabled]
    disabled = [plugin for plugin in others if plugin.disabled]
    listed, rows = [], []
    for report in reports:
        axis, plugin = report.installed.axis, report.installed.plugin
        licence = ", ".join(axis.licences)
        listed.append(
            {
                "name": axis.name,
                "summary": axis.summary,
                "aliases": list(axis.aliases),
                "sources": list(axis.sources),
                "licence": licence or None,
                "versions": report.versions,
                **_origin(plugin),
            }
        )
        rows.append(
            (
                axis.name,
                ",".join(axis.aliases) or "-",
                report.versions,
                f"{plugin.distribution} {plugin.version}",
                licence or "-",
                "ok",
                ",".join(axis.sources),
                axis.summary,
            )
        )
    data = {
        "axes": listed,
        "broken": [_origin(plugin) | {"reason": plugin.error} for plugin in broken],
        "disabled": [_origin(plugin) for plugin in disabled],
    }
    headers = ("AXIS", "ALIASES", "VERSIONS", "FROM", "LICENCE", "STATE", "SOURCES", "SUMMARY")
    spare = ("STATE", "FROM", "SOURCES", "LICENCE", "ALIASES")
    lines = [table(headers, rows, spare=spare) if rows else "No axes are installed."]
    lines += [f"broken: {_named(plugin)}: {plugin.error}" for plugin in broken]
    lines += [f"disabled: {_named(plugin)}" for plugin in disabled]
    common.emit("axes", data, "\n".join(lines), asked=True)


def _origin(plugin: "Plugin") -> dict[str, Any]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "distribution_version": plugin.version,
    }


def _named(plugin: "Plugin") -> str:
    return f"{plugin.name} from {plugin.distribution} {plugin.version}"


_COLOURS = {"passed": "green", "warned": "yellow", "failed": "red"}
_STATUS = re.compile(f"^({'|'.join(_COLOURS)})\\b", re.MULTILINE)


@command("check-axis")
@click.argument("name", metavar="NAME_OR_YAML", shell_complete=completing.AXES)
@click.option(
    "--source",
    metavar="NAME",
    help="One of the axis' sources; of an audit, a file of rows too.  "
    "[default: pocket, else the first]",
)
@click.option(
    "--limit", type=WholeRange(1), help="Rows to check.  [default: 500; of an audit, all]"
)
@click.option(
    "--seed", type=WholeNumber(), default=0, show_default=True, help="Seed of the request."
)
@click.option("--train/--no-train", default=True, help="Whether to try ten steps of training.")
@click.option(
    "--accept-licence", is_flag=True, help="Use data whose licence forbids commercial use."
)
@click.option(
    "--audit",
    is_flag=True,
    help="Find mislabelled rows instead: train on each half of them and judge the other.",
)
@base_option("Base model of the audit.  [default: the last one, or pocket]")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A DPOConfig field of the audit."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.jsonl",
    help="Write the suspicious rows of the audit.",
)
def check_axis(
    common: Common,
    name: str,
    source: str | None,
    limit: int | None,
    audit: bool,
    base: str | None,
    settings: tuple[str, ...],
    output: Path | None,
    **options: Any,
) -> int:
    """Check what an axis must keep: rows, labels, switch, splits, tokens, ten training steps.

    Exit code 3 says that a check failed; the report is written all the same. With --audit, which
    trains two vectors, the rows whose chosen and rejected answers may be exchanged.
    """
    from prefreg import api

    if audit:
        del options["train"]
        options |= {"data": source, "limit": limit, "base": base, "settings": settings}
        _audit(common, name, output, options)
        return 0
    if base or settings or output:
        raise UsageError("--base, --set and --output are those of --audit: give that too.")
    report = api.check_installed(name, source, limit=limit or 500, tell=common.note, **options)
    text = _STATUS.sub(lambda found: click.style(found[0], fg=_COLOURS[found[0]]), str(report))
    common.emit("check-axis", report.to_json(), text, asked=True)
    return 0 if report.passed else GATE_NOT_MET


_SHOWN = 20


def _audit(common: Common, name: str, output: Path | None, options: dict[str, Any]) -> None:
    if output is not None and output.exists():
        raise UsageError(f"{output} is there already: name another.")
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.audit_labels(name, progress=progress, tell=common.note, **options)
    if output is not None:
        found.write(output)
    data = {"axis": found.axis, "audited": found.to_json()}
    common.emit("check-axis", data, _describe_audit(found, output), asked=True)


def _describe_audit(found: "LabelAudit", output: Path | None) -> str:
    rows = [
        (
            f"{each.wrong:.2f}",
            f"{each.margin:+.2f}",
            each.place or "-",
            " | ".join(each.texts.values()),
        )
        for each in found.suspicious[:_SHOWN]
    ]
    lines = [table(("WRONG", "MARGIN", "ROW", "PROMPT | CHOSEN | REJECTED"), rows), ""]
    if (more := len(found.suspicious) - _SHOWN) > 0:
        lines.append(f"{plural(more, 'more row')}: --output FILE.jsonl or --json has all.")
    if output is not None:
        lines.append(f"The suspicious rows are in {output}.")
    said = (
        f"{len(found.suspicious)} of {plural(len(found.pairs), 'pair')} of {found.axis} are more "
        f"likely exchanged than not; about {found.share_wrong:.1%} are, if labels are wrong at "
        f"random. The other half agrees with {found.agreeing:.1%} of the labels; near 50 %, "
        "nothing can be told. A margin is that of chosen over rejected by a vector that has not "
        "seen the row, 1 being usual."
    )
    return "\n".join([*lines, paragraph(said)])


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
    from prefreg import api

    made = api.new_axis(name, output)
    written = f"Wrote {made.folder} ({len(made.files)} files). Next:"
    common.emit("new-axis", made.to_json(), "\n  ".join([written, *made.steps]))


COMMANDS = [axes, check_axis, new_axis]
