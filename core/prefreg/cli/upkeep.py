"""Keep the house: verify, gc, doctor."""

from typing import Any

import click

from prefreg.cli.options import Common, command, human_size, sections
from prefreg.cli.views import describe_disk, disk_view
from prefreg.errors import RegistryError


@command("verify")
def verify(common: Common) -> None:
    """Check every byte of the registry against its hash."""
    problems = common.open_registry().verify()
    if problems:
        raise RegistryError(
            f"{len(problems)} problems found:\n" + "\n".join(f"- {problem}" for problem in problems)
        )
    common.emit("verify", {"problems": []}, "Every version has its bytes, and every hash agrees.")


@command("gc")
@click.option(
    "--cache",
    is_flag=True,
    help="Empty the cache too: fingerprints, reference scores, and runs that were not finished.",
)
def gc(common: Common, cache: bool) -> None:
    """Remove the bytes that no version needs."""
    registry = common.open_registry()
    report, disk = registry.gc(), registry.disk_use()
    data: dict[str, Any] = {"files": report.files, "bytes": report.bytes, "disk": disk_view(disk)}
    text = (
        f"Removed {report.files} files and gave {human_size(report.bytes)} back. "
        f"{describe_disk(disk)}"
    )
    if cache:
        from prefreg.flows.doctor import empty_cache

        emptied = empty_cache()
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
    from prefreg.flows.doctor import examine

    report = examine(common.open_registry().access)
    lines = [sections({name: value for name, value in report.facts.items()})]
    lines += [f"\nProblem: {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("\nNo problems found.")
    data = {"facts": report.facts, "problems": list(report.problems)}
    common.emit("doctor", data, "\n".join(lines), asked=True)


COMMANDS = (verify, gc, doctor)
