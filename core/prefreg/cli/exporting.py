"""Handing stored vectors to other tools."""

from pathlib import Path
from typing import Any

import click

from prefreg.cli.options import Common, command, human_size, sections
from prefreg.cli.progress import byte_progress

_DTYPES = ("float32", "bfloat16", "float16")


@command("export")
@click.argument("what", nargs=-1, required=True, metavar="AXIS[@V]|TERM...")
@click.option(
    "--as",
    "form",
    type=click.Choice(["adapter", "checkpoint", "mergekit"]),
    required=True,
    help="A PEFT adapter or a whole checkpoint of one version, or terms for mergekit to merge.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write; it appears whole or not at all.",
)
@click.option("--base", help="Base model: a folder or a hub id.  [default: the version's own]")
@click.option(
    "--rank",
    "--max-rank",
    "max_rank",
    type=click.IntRange(1),
    help="Rank of an adapter; a dense vector needs one. Says the error.",
)
@click.option(
    "--sign",
    type=click.Choice(["plus", "minus"]),
    help="Checkpoint of θ_base + φ or of θ_base − φ.  [default: plus]",
)
@click.option(
    "--dtype", type=click.Choice(_DTYPES), help="Dtype of a checkpoint.  [default: the base's]"
)
@click.option("--overwrite", is_flag=True, help="Replace a folder that prefreg wrote.")
def export(common: Common, **options: Any) -> None:
    """Write stored vectors in the form that another tool takes."""
    from prefreg.flows.exporting import ExportRequest

    request = ExportRequest(**options)
    with byte_progress(common) as progress:
        exported = common.open_registry().export(request, progress=progress)
    common.emit("export", exported.as_dict(), _describe(exported.written))
    for warning in exported.written.get("warnings", ()):
        common.note(f"Note: {warning}")


def _describe(written: dict[str, Any]) -> str:
    fields: dict[str, object] = {
        "formula": written["formula"],
        "base": written["base"],
        "written": f"{written['path']} ({human_size(written['size'])})",
    }
    if "rank" in written:
        fields["rank"] = written["rank"]
    if found := written.get("compression"):
        # Heavy to import, and made already where there is something to describe.
        from prefreg.composition.factoring import Compression

        compression = Compression(**found)
        fields["lost"] = compression.lost
        if compression.left_out:
            fields["left out"] = compression.omitted
    if "config" in written:
        fields["merge"] = f"cd {written['path']} && mergekit-yaml {written['config']} ../merged"
    return sections(fields)


COMMANDS = (export,)
