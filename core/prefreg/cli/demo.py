"""The whole story on the bundled model."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import Common, command, table
from prefreg.cli.progress import StageProgress, stage_progress

if TYPE_CHECKING:
    from prefreg.flows.demo import Demo, Setting

_HEADERS = (
    "SETTING",
    "ANSWERS",
    "REFUSES UNSAFE",
    "REFUSES BENIGN",
    "CORRECT",
    "WORDS",
    "MALFORMED",
)


@command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the scratch registry, the composed model and the picture.",
)
@click.option("--prompts", type=click.IntRange(10, 400), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def demo(common: Common, output: Path, prompts: int, seed: int) -> None:
    """Train three axes on the bundled model, compose them, and show what the dials do.

    Takes three to five minutes on two cores and needs no network.
    """
    from prefreg.flows.demo import run_demo

    with ExitStack() as stack:

        def progress(prefix: str) -> StageProgress | None:
            stack.close()  # the bars of the stage before
            return stack.enter_context(stage_progress(common, prefix))

        made = run_demo(output, prompts=prompts, seed=seed, progress=progress, note=common.note)
    common.emit("demo", _view(made), _describe(made))


def _view(made: "Demo") -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "picture": str(made.picture),
        "model": str(made.model),
        "settings": [
            {"terms": list(map(str, setting.terms)), "behaviour": asdict(setting.behaviour)}
            for setting in made.settings
        ],
        "examples": [
            {"prompt": example.prompt, "answers": dict(example.answers)}
            for example in made.examples
        ],
    }


def _row(setting: "Setting") -> tuple[str, ...]:
    found = setting.behaviour
    return (
        " ".join(map(str, setting.terms)) or "base",
        f"{found.answers.value:.2f}",
        f"{found.refuses_unsafe.value:.2f}",
        f"{found.refuses_benign.value:.2f}",
        f"{found.correct.value:.2f}" if found.correct else "-",
        f"{found.words.value:.1f}",
        f"{found.malformed.value:.3f}",
    )


def _describe(made: "Demo") -> str:
    lines = ["", table(_HEADERS, [_row(setting) for setting in made.settings])]
    for example in made.examples:
        width = max(len(label) for label, _ in example.answers)
        lines += ["", f"> {example.prompt}"]
        lines += [f"  {label.ljust(width)}  {answer}" for label, answer in example.answers]
    lines += [
        "",
        f"The picture is {made.picture}, the composed model {made.model}; try",
        f"  prefreg --registry {made.folder / 'registry.db'} generate helpful:1 "
        '--prompt "Which colour is Elsa\'s boat?"',
    ]
    return "\n".join(lines)


COMMANDS = (demo,)
