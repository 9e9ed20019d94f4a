"""One file for others, and from others: bundle, unbundle."""

from pathlib import Path

import click

from prefreg.cli import completing
from prefreg.cli.options import FILE, REFERENCE, Common, Reference, command
from prefreg.cli.printing import progress_bars, tell_licences
from prefreg.cli.tables import sections
from prefreg.files import human_size


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
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
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


COMMANDS = [bundle, unbundle]
