"""Axes: which are installed, where from, and what is wrong with the broken ones."""

from prefreg.cli.options import Common, command, table


@command("axes")
def axes(common: Common) -> None:
    """List the installed axes, where they come from, and broken plugins with the reason."""
    reports, broken = common.open_registry().axes()
    data = {
        "axes": [
            {
                "name": report.installed.axis.name,
                "summary": report.installed.axis.summary,
                "aliases": list(report.installed.axis.aliases),
                "sources": list(report.installed.axis.sources),
                "licence": ", ".join(report.installed.axis.licences) or None,
                "plugin": report.installed.plugin.name,
                "distribution": report.installed.plugin.distribution,
                "distribution_version": report.installed.plugin.version,
                "versions": report.versions,
            }
            for report in reports
        ],
        "broken": [
            {
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "distribution_version": plugin.version,
                "reason": plugin.error,
            }
            for plugin in broken
        ],
    }
    rows = [
        (
            report.installed.axis.name,
            ",".join(report.installed.axis.aliases) or "-",
            report.versions,
            f"{report.installed.plugin.distribution} {report.installed.plugin.version}",
            ",".join(report.installed.axis.sources),
            report.installed.axis.summary,
        )
        for report in reports
    ]
    headers = ("AXIS", "ALIASES", "VERSIONS", "FROM", "SOURCES", "SUMMARY")
    text = table(headers, rows) if rows else "No axes are installed."
    for plugin in broken:
        text += (
            f"\nbroken: {plugin.name} from {plugin.distribution} {plugin.version}: {plugin.error}"
        )
    common.emit("axes", data, text)


COMMANDS = (axes,)
