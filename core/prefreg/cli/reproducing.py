"""Repeat the experiments of the paper."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import Common, command, table
from prefreg.cli.progress import StageProgress, stage_progress
from prefreg.errors import UsageError

if TYPE_CHECKING:
    from prefreg.experiments.running import Reproduced


@command("reproduce")
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the vectors, the results and the pictures.  [default: reproduced/NAME]",
)
@click.option("--base", default="pocket", show_default=True, help="Base model.")
@click.option("--axes", metavar="NAMES", help="As in a,b.  [default: the experiment's]")
@click.option(
    "--seeds", default="0,1,2", show_default=True, help="Of the training: each is another φ."
)
@click.option(
    "--prompts",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="At most so many prompts, and pairs of each axis.",
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=96, show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PACK",
    help="A folder with prefs/AXIS/train.jsonl.gz and dev.jsonl.gz.  [default: each axis's source]",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many rows of an axis.")
@click.option("--preset", help="Training settings: paper or quick.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A training setting.")
@click.option("--lora", type=click.IntRange(1), metavar="RANK", help="Train adapters of this rank.")
@click.option("--accept-licence", is_flag=True, help="Use data that is not for commercial use.")
@click.option(
    "--reward-model",
    "reward_models",
    multiple=True,
    metavar="ID",
    help="A sequence classifier that scores answers: a folder or a hub id.",
)
@click.option(
    "--questions",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Multiple choice for retention.  [default: what the bundled model knows]",
)
@click.option(
    "--tasks", default="commonsense_qa", show_default=True, help="Of lm-eval, for commonsense."
)
@click.option("--task-limit", type=click.IntRange(1), help="Documents of each task.")
@click.option(
    "--task-path",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of further tasks.",
)
def reproduce(
    common: Common,
    name: str | None,
    output: Path | None,
    axes: str | None,
    seeds: str,
    tasks: str,
    **options: Any,
) -> None:
    """Repeat an experiment of the paper; without NAME, list them.

    Vectors are taken from the registry or trained into the folder, where the same command goes on
    after an interruption.
    """
    from prefreg.experiments.catalogue import EXPERIMENTS, find_experiment

    if name is None:
        common.emit("reproduce", [_entry(each) for each in EXPERIMENTS], _list(), asked=True)
        return
    find_experiment(name)
    from prefreg.experiments.request import ReproduceRequest

    request = ReproduceRequest(
        name=name,
        output=output or Path("reproduced") / name,
        axes=_names(axes or ""),
        seeds=_numbers(seeds),
        tasks=_names(tasks),
        **options,
    )
    with ExitStack() as stack:

        def progress(prefix: str) -> StageProgress | None:
            stack.close()  # the bars of the stage before
            return stack.enter_context(stage_progress(common, prefix))

        found = common.open_registry().reproduce(request, progress=progress, note=common.note)
    common.emit("reproduce", found.results | {"folder": str(found.folder)}, _describe(found))


def _entry(experiment: Any) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "summary": experiment.summary,
        "paper": experiment.paper,
        "minutes": experiment.minutes,
        "axes": list(experiment.axes),
    }


def _list() -> str:
    from prefreg.experiments.catalogue import EXPERIMENTS

    rows = [(each.name, each.paper, each.minutes, each.summary) for each in EXPERIMENTS]
    headers = ("NAME", "OF THE PAPER", "MINUTES", "WHAT IT SHOWS")
    return table(headers, rows) + "\n\nMinutes are on the bundled model and one core."


def _describe(found: "Reproduced") -> str:
    lines = [found.findings.recipe]
    for each in found.findings.tables:
        lines += ["", each.title, "", table([head.upper() for head in each.headers], each.rows)]
    verdicts = {True: "held", False: "DID NOT HOLD", None: "not measured"}
    lines.append("")
    lines += [
        f"{verdicts[each.held]}: {each.text}: {each.figures}." for each in found.findings.claims
    ]
    lines += ["", *found.findings.notes] if found.findings.notes else []
    return "\n".join([*lines, "", f"Everything is in {found.folder}; begin with results.md."])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise UsageError(f"--seeds {text!r}: write whole numbers, as in 0,1,2.") from None


COMMANDS = (reproduce,)
