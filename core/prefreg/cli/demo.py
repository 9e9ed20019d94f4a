"""The whole story on the bundled model, by the script of its world."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import Common, command, table
from prefreg.cli.printing import stage_progress
from prefreg.errors import OutputError
from prefreg.progress import Progress, progress_of
from prefreg.terms import Term, as_terms

if TYPE_CHECKING:
    from prefreg.axes.base_world import BaseWorld, DemoScript
    from prefreg.composition.in_memory import SteeredModel
    from prefreg.evaluation.behaviour import Behaviour

ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)
EXAMPLES = 2
_MARKER = "demo.txt"

Note = Callable[[str], None]


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
    with stage_progress(common) as progress:
        made = run_demo(output, prompts=prompts, seed=seed, progress=progress, note=common.note)
    common.emit("demo", _view(made), _describe(made))


def _view(made: "Demo") -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "picture": str(made.picture),
        "model": str(made.model),
        "settings": [
            {
                "terms": list(map(str, setting.terms)),
                "behaviour": {
                    name: None if value is None else asdict(value)
                    for name, value in setting.behaviour.items()
                },
            }
            for setting in made.settings
        ],
        "examples": [
            {"prompt": example.prompt, "answers": dict(example.answers)}
            for example in made.examples
        ],
    }


def _row(setting: "Setting", script: "DemoScript") -> tuple[str, ...]:
    values = [
        "-" if (found := setting.behaviour[figure]) is None else format(found.value, form)
        for figure, (_, form) in script.columns.items()
    ]
    return (" ".join(map(str, setting.terms)) or "base", *values)


def _describe(made: "Demo") -> str:
    headers = ("SETTING", *(heading for heading, _ in made.script.columns.values()))
    lines = ["", table(headers, [_row(setting, made.script) for setting in made.settings])]
    for example in made.examples:
        width = max(len(label) for label, _ in example.answers)
        lines += ["", f"> {example.prompt}"]
        lines += [f"  {label.ljust(width)}  {answer}" for label, answer in example.answers]
    term, prompt = made.script.invitation
    lines += [
        "",
        f"The picture is {made.picture}, the composed model {made.model}; try",
        f'  prefreg --registry {made.folder / "registry.db"} generate {term} --prompt "{prompt}"',
    ]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the dials with what the model then does."""

    terms: tuple[Term, ...]
    behaviour: "Behaviour"


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with an answer for each setting that is compared."""

    prompt: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made."""

    script: "DemoScript"
    settings: tuple[Setting, ...]
    examples: tuple[Example, ...]
    folder: Path
    picture: Path
    model: Path


def run_demo(
    folder: Path,
    *,
    prompts: int,
    seed: int,
    progress: Progress | None,
    note: Note,
) -> Demo:
    """Train, compose, measure and draw, all below `folder`."""
    # torch takes seconds to import, and every command imports this module.
    from prefreg.checkpoints.bundled import DEFAULT_BASE, world_of
    from prefreg.composition.compose import compose
    from prefreg.composition.composition_request import CompositionRequest
    from prefreg.composition.in_memory import load_steered
    from prefreg.registry.access import Access
    from prefreg.training.add_axis import add_axis
    from prefreg.training.axis_request import AxisRequest

    world = world_of(DEFAULT_BASE)
    assert world is not None
    script = world.demo
    assert script is not None
    _prepare(folder)
    access = Access(folder / "registry.db")
    for axis in script.panels:
        note(f"Training the two poles of {axis} …")
        record = add_axis(
            access, AxisRequest(axis, base=DEFAULT_BASE, seed=seed), progress_of(progress, axis)
        )
        note(f"Stored {record}.")
    composed = script.together[-1]
    note("Composing " + " ".join(composed) + " …")
    model_folder = folder / "model"
    compose(access, CompositionRequest(as_terms(composed), model_folder, overwrite=True))
    note("Turning the dials …")
    steered = load_steered(access, (), DEFAULT_BASE)
    settings = _sweep(steered, world, script, prompts, seed, progress)
    picture = folder / "curves.png"
    caption = (
        f"{world.name}, seed {seed}; {prompts} test prompts of each kind, temperature 1; "
        "bands are 95 % intervals over prompts"
    )
    _draw(settings, script, picture, caption)
    examples = _examples(steered, world, script, seed)
    return Demo(script, settings, examples, folder, picture, model_folder)


def _prepare(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise OutputError(
            f"{folder} holds something else than an earlier demo; choose another with --output."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).write_text("Made by `prefreg demo`; it may be replaced by the next one.\n")


def _sweep(
    steered: "SteeredModel",
    world: "BaseWorld",
    script: "DemoScript",
    prompts: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Setting, ...]:
    from prefreg.evaluation.behaviour import measure_behaviour

    wanted: list[tuple[Term, ...]] = [()]
    wanted += [(Term(axis, eta),) for axis in script.panels for eta in ETAS if eta]
    wanted += [as_terms(terms) for terms in script.together]
    settings = []
    for step, terms in enumerate(wanted, 1):
        steered.set(terms)
        found = measure_behaviour(
            steered.model, steered.tokenizer, world, prompts=prompts, seed=seed
        )
        settings.append(Setting(terms, found))
        if progress is not None:
            progress("measuring", step, len(wanted))
    return tuple(settings)


def _draw(settings: Sequence[Setting], script: "DemoScript", picture: Path, caption: str) -> None:
    from prefreg.evaluation.plots import Curve, draw_curves

    def curve(label: str, axis: str, figure: str) -> Curve:
        points = {}
        for setting in settings:
            value = setting.behaviour[figure]
            if value is None:
                continue
            if not setting.terms:
                points[0.0] = value
            elif len(setting.terms) == 1 and setting.terms[0].axis == axis:
                points[setting.terms[0].eta] = value
        return Curve(label, points)

    panels = {
        axis: [curve(label, axis, figure) for label, figure in curves.items()]
        for axis, curves in script.panels.items()
    }
    draw_curves(
        panels,
        picture,
        title="θ = θ_base + η·φ on the bundled model",
        caption=caption,
        units=dict(script.units),
    )


def _examples(
    steered: "SteeredModel", world: "BaseWorld", script: "DemoScript", seed: int
) -> tuple[Example, ...]:
    from prefreg.models.sampling import Sampling

    asked = [
        prompt
        for kind in script.kinds
        for prompt in world.prompts(kind, split="test", limit=EXAMPLES, seed=seed)
    ]
    answers: dict[str, list[str]] = {}
    for label in ("base", *script.compared):
        steered.set(as_terms(label) if label != "base" else ())
        answers[label] = steered.generate_all(asked, Sampling(96, 1.0, seed=seed))
    return tuple(
        Example(prompt, tuple((label, found[index]) for label, found in answers.items()))
        for index, prompt in enumerate(asked)
    )


COMMANDS = [demo]
