"""Importing vectors from what other tools trained."""

from pathlib import Path
from typing import Any

import click

from prefreg.cli.options import Common, command, human_size
from prefreg.cli.views import version_view

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@command("import")
@click.argument("name")
@click.option("--plus", type=_FOLDER, help="The positive pole.")
@click.option("--minus", type=_FOLDER, help="The negative pole.")
@click.option(
    "--task-vector",
    type=click.Path(path_type=Path, exists=True),
    help="Differences in the base's names, instead of poles: a safetensors file, or a folder.",
)
@click.option("--base", required=True, help="Base model of all: a folder, a hub id, or pocket.")
@click.option("--positive-only", is_flag=True, help="There is no negative pole: φ₊ = θ₊ − θ_base.")
@click.option("--of-pair", is_flag=True, help="The task vector is θ₊ − θ₋.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Storage dtype of a dense vector.",
)
@click.option("--note", help="A line to remember the version by.")
def import_vector(common: Common, name: str, **options: Any) -> None:
    """Store the difference of two trained models as a version of the axis NAME.

    The poles are two checkpoints or two PEFT adapters, trained from one base; a task vector is
    their difference, taken already. NAME need not be an installed axis.
    """
    from prefreg.flows.importing import ImportRequest

    record = common.open_registry().import_vector(ImportRequest(name, **options))
    text = f"Imported {record} on {record.base.name} ({record.kind}, {human_size(record.size)})."
    common.emit("import", version_view(record), text)


COMMANDS = (import_vector,)
