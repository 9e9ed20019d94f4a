"""Starting an axis of one's own: the package, complete, and what to type next."""

import shlex
from pathlib import Path

import click

from prefreg.cli.options import Common, command
from prefreg.plugins import load_axes
from prefreg.scaffold import NewPackage, write_package


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
    # A relative path needs its dot: pip takes a bare name for one on the index.
    folder = str(made.folder) if made.folder.is_absolute() else f"./{made.folder}"
    return [
        f"pip install -e {shlex.quote(folder + '[dev]')}",
        f"prefreg check-axis {made.axis}",
        f"prefreg add-axis {made.axis} --base pocket",
    ]


COMMANDS = (new_axis,)
