"""Fine-tuning a base model, which axes are then trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import TOO_LONG, Common, command
from prefreg.cli.progress import stage_progress
from prefreg.cli.views import identity_view

if TYPE_CHECKING:
    from prefreg.flows.sft import SFTResult

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@command("sft")
@click.option("--base", metavar="DIR_OR_ID", help="The raw model: a folder or a hub id.")
@click.option(
    "--from-config",
    type=click.Path(path_type=Path, exists=True),
    metavar="CONFIG.json",
    help="Start from random weights instead; the tokenizer lies beside the file.",
)
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A .jsonl[.gz] file of answers."
)
@click.option(
    "--heldout",
    type=click.Path(path_type=Path),
    help="Held-out answers.  [default: of a tenth of the prompts, at most 200]",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the model."
)
@click.option("--limit", type=click.IntRange(1), help="Read at most this many rows.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of prompt and answer together.")
@TOO_LONG
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data order.")
@click.option("--preset", help="A set of hyper-parameters: paper, quick or scratch.")
@click.option("--config", type=_FILE, help="YAML file of SFTConfig fields.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One SFTConfig field.")
@click.option(
    "--chat-template", type=_FILE, help="Jinja file.  [default: the model's own, or a plain one]"
)
def sft(common: Common, **options: Any) -> None:
    """Fine-tune a raw model on instructions, as the base model of later axes.

    A row has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`.
    Only answers are learnt. The folder is a plain checkpoint with its record in prefreg.json, and
    the registry's last base, which `prefreg add-axis` takes.
    """
    from prefreg.flows.sft import SFTRequest

    registry = common.open_registry()
    with stage_progress(common) as progress:
        result = registry.sft(SFTRequest(**options), progress=progress, note=common.note)
    data = {
        "output": str(options["output"]),
        "base": identity_view(result.identity),
        "record": result.record,
    }
    common.emit("sft", data, _describe(result, options["output"]))


def _describe(result: "SFTResult", output: Path) -> str:
    audit, losses = result.record["data"]["audit"], result.record["heldout_loss"]
    dropped = audit["empty"] + audit["duplicates"] + audit["dropped_long"]
    learnt = f"Learnt {audit['train']} answers in {result.record['training']['steps']} steps"
    counted = (
        f" ({dropped} dropped, {audit['truncated']} cut)" if dropped or audit["truncated"] else ""
    )
    loss = (
        f" Held-out loss: {losses['before']:.3f} before, {losses['after']:.3f} after, in nats a "
        f"token of {audit['heldout']} answers."
        if losses["after"] is not None
        else ""
    )
    return f"{learnt}{counted}.{loss}\nWrote {output}, the base that add-axis takes from now on."


COMMANDS = (sft,)
