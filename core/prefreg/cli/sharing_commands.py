"""Give to others and take from them: push, pull, bundle, unbundle."""

import os
import sys
from pathlib import Path

import click

from prefreg.cli import completing
from prefreg.cli.options import FILE, REFERENCE, Common, Reference, base_option, command
from prefreg.cli.printing import progress_bars, tell_licences
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


@command("bundle")
@click.argument("references", type=REFERENCE, nargs=-1, metavar="[AXIS[@V]]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The bundle, as in helpful.zip.",
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    shell_complete=completing.PRESETS,
    help="A preset with the versions it names; may be repeated.  [default: the presets that name "
    "nothing but these versions]",
)
@click.option("--key", type=FILE, metavar="PRIVATE.pem", help="Private key to sign with.")
@click.option("--with-base", is_flag=True, help="Put the base model in too.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, if it is a bundle.")
def bundle(
    common: Common,
    references: tuple[Reference, ...],
    output: Path,
    presets: tuple[str, ...],
    key: Path | None,
    with_base: bool,
    overwrite: bool,
) -> None:
    """Write versions to one file, to be mailed or carried to where no network is.

    It holds vectors, whole records, aliases, presets, licences and a bill of materials.
    """
    done = common.open_registry().bundle(
        [f"{axis}@{version}" if version else axis for axis, version in references],
        output,
        presets=presets,
        key=key,
        with_base=with_base,
        overwrite=overwrite,
    )
    text = sections(
        {
            "bundled": ", ".join(map(str, done.records)),
            **({"presets": ", ".join(map(str, done.presets))} if done.presets else {}),
            **({"base": done.base} if done.base else {}),
            "into": f"{done.path} ({human_size(done.size)}, {'' if done.signed else 'not '}signed)",
        }
    )
    common.emit("bundle", done.to_json(), text)
    tell_licences(common, done.licences)


@command("unbundle")
@click.argument("file", type=FILE)
@click.option(
    "--public-key",
    type=FILE,
    metavar="PUBLIC.pem",
    help="Take it only if the owner of this key has signed it.",
)
@click.option(
    "--base-to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the base that is in it to this folder.",
)
@click.option("--renumber", is_flag=True, help="Take the next numbers here.")
def unbundle(
    common: Common, file: Path, public_key: Path | None, base_to: Path | None, renumber: bool
) -> None:
    """Take what a bundle holds into the registry, which is created if need be.

    Every byte is checked before anything is stored. Versions keep their numbers where those are
    free; what is here already stays as it is.
    """
    with progress_bars(common) as progress:
        done = common.open_registry().unbundle(
            file, public_key=public_key, base_to=base_to, renumber=renumber, progress=progress
        )
    added = [each.record for each in done.versions if each.added]
    known = [each.record for each in done.versions if not each.added]
    lines = [
        f"{said} {', '.join(map(str, things))}."
        for said, things in (
            ("Added", added),
            ("Here already:", known),
            ("Aliases set:", done.aliases),
            ("Presets saved:", done.presets),
        )
        if things
    ]
    lines += done.left
    if done.base is not None:
        lines.append(f"The base is at {done.base}.")
    common.emit("unbundle", done.to_json(), "\n".join(lines))
    if done.signed and not done.verified:
        common.note("It is signed; whose it is, --public-key would check.")
    elif not done.signed:
        common.note("It is not signed, so anybody may have made it.")
    if done.held_base and done.base is None:
        common.note("It holds its base too, which --base-to DIR writes to a folder.")
    tell_licences(common, done.licences)


def _hide_bars(common: Common) -> None:
    """Keep the bars of the Hub's client, which reads this once, off all but terminals."""
    if common.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


COMMANDS = [push, pull, bundle, unbundle]
