"""Importing vectors from what other tools trained."""

from pathlib import Path
from typing import Any

import click

from prefreg.cli.options import Common, command, human_size
from prefreg.cli.views import version_view

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@command("import")
@click.argument("name")
@click.option("--plus", type=_FOLDER, required=True, help="The positive pole.")
@click.option("--minus", type=_FOLDER, help="The negative pole.")
@click.option("--base", required=True, help="Base model of both: a folder, a hub id, or pocket.")
@click.option("--positive-only", is_flag=True, help="There is no negative pole: φ₊ = θ₊ − θ_base.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Storage dtype of a vector of checkpoints.",
)
@click.option("--note", help="A line to remember the version by.")
def import_vector(common: Common, name: str, **options: Any) -> None:
    """Store the difference of two trained models as a version of the axis NAME.

    The poles are two checkpoints or two PEFT adapters, trained from one base. NAME need not be an
    installed axis.
    """
    from prefreg.flows.importing import ImportRequest

    record = common.open_registry().import_vector(ImportRequest(name, **options))
    text = f"Imported {record} on {record.base.name} ({record.kind}, {human_size(record.size)})."
    common.emit("import", version_view(record), text)


COMMANDS = (import_vector,)
