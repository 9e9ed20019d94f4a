"""Give to others and take from them: push, pull."""

import os
import sys
from pathlib import Path

import click

from prefreg.cli import completing
from prefreg.cli.options import Common, base_option, command
from prefreg.cli.printing import tell_licences
from prefreg.cli.tables import sections
from prefreg.errors import UsageError
from prefreg.files import human_size
from prefreg.terms import parse_reference


@command("push")
@click.argument(
    "names", nargs=-1, metavar="[AXIS[@V]] ORG/NAME", shell_complete=completing.VERSIONS
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Push a folder that `compose` has written, instead of a vector.",
)
@click.option("--private", is_flag=True, help="Make the repository private, if it is a new one.")
@click.option("--licence", metavar="ID", help="Licence of the vector itself, as in CC-BY-4.0.")
def push(
    common: Common,
    names: tuple[str, ...],
    folder: Path | None,
    private: bool,
    licence: str | None,
) -> None:
    """Push a vector, or a composed folder, to a repository of the Hugging Face Hub.

    The repository is made if it is not there. Everything is one commit, made only if nobody else
    has pushed meanwhile.
    """
    if len(names) != (2 if folder is None else 1):
        raise UsageError("Give AXIS[@V] and ORG/NAME, or --folder FOLDER and ORG/NAME.")
    _hide_bars(common)
    registry, repository = common.open_registry(), names[-1]
    if folder is None:
        parse_reference(names[0])
        done = registry.push(names[0], repository, private=private, licence=licence)
    elif licence is not None:
        raise UsageError("--licence is of a vector; a composition has the licences of its recipe.")
    else:
        done = registry.push(folder, repository, private=private)
    text = sections(
        {
            "pushed" if done.changed else "there already": ", ".join(done.files),
            "commit": f"{done.commit[:12]}{', private' if done.private else ''}",
            "at": done.url,
        }
    )
    common.emit("push", done.to_json(), text)
    for warning in done.warnings:
        common.note(f"{click.style('Warning:', fg='yellow')} {warning}")
    tell_licences(common, done.licences)


@command("pull")
@click.argument("repository", metavar="ORG/NAME[@REVISION]")
@base_option("Base model of the vector: a name, folder or hub id, if the registry knows none.")
@click.option("--name", metavar="AXIS", help="Axis to store it under.  [default: its own]")
def pull(common: Common, repository: str, base: str | None, name: str | None) -> None:
    """Take a vector from a repository of the Hugging Face Hub, as the next version of its axis.

    Its record, every byte and its base are checked before anything is stored.
    """
    _hide_bars(common)
    done = common.open_registry().pull(repository, base=base, name=name)
    record = done.record
    data = record.summary() | {
        "added": done.added,
        "repository": done.repository,
        "commit": done.commit,
        "licences": done.licences.to_json(),
    }
    said = "Added" if done.added else "There already:"
    text = f"{said} {record} on {record.base.name} ({human_size(record.size)}) from {repository}."
    common.emit("pull", data, text)
    tell_licences(common, done.licences)


def _hide_bars(common: Common) -> None:
    """Keep the bars of the Hub's client, which reads this once, off all but terminals."""
    if common.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


COMMANDS = [push, pull]
