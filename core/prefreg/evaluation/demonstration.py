"""The whole story on the bundled model, by the script of its world."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.base_world import BaseWorld, DemoScript, WorldVerdict
from prefreg.checkpoints.bundled import DEFAULT_BASE, world_of
from prefreg.composition.compose import compose
from prefreg.composition.composition_request import CompositionRequest
from prefreg.composition.in_memory import SteeredModel, load_steered
from prefreg.errors import OutputError
from prefreg.evaluation.plots import Curve, draw_curves
from prefreg.evaluation.statistics import Estimate, grouped_mean, rate
from prefreg.models.generation import sample_answers
from prefreg.models.sampling import Sampling
from prefreg.progress import Progress, progress_of
from prefreg.registry import Access
from prefreg.terms import Term, as_terms
from prefreg.training.add_axis import add_axis
from prefreg.training.axis_request import AxisRequest

Behaviour = Mapping[str, Estimate | None]
"""Figures over prompts, each with its interval; None where nothing could be counted."""

ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)
EXAMPLES = 2
_MARKER = "demo.txt"

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the dials with what the model then does."""

    terms: tuple[Term, ...]
    behaviour: Behaviour


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with an answer for each setting that is compared."""

    prompt: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What the demo made."""

    script: DemoScript
    settings: tuple[Setting, ...]
    examples: tuple[Example, ...]
    folder: Path
    picture: Path
    model: Path

    def to_json(self) -> dict[str, Any]:
        """Return what was made in a form that JSON can hold."""
        return {
            "folder": str(self.folder),
            "picture": str(self.picture),
            "model": str(self.model),
            "settings": [
                {
                    "terms": list(map(str, each.terms)),
                    "behaviour": {
                        name: None if value is None else asdict(value)
                        for name, value in each.behaviour.items()
                    },
                }
                for each in self.settings
            ],
            "examples": [
                {"prompt": each.prompt, "answers": dict(each.answers)} for each in self.examples
            ],
        }


def demonstrate(
    folder: Path,
    *,
    prompts: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
    tell: Note | None = None,
) -> Demonstration:
    """Train, compose, measure and draw, all below `folder`."""
    tell = tell or (lambda text: None)
    world = world_of(DEFAULT_BASE)
    assert world is not None
    script = world.demo
    assert script is not None
    _prepare(folder)
    access = Access(folder / "registry.db")
    for axis in script.panels:
        tell(f"Training the two poles of {axis} …")
        record = add_axis(
            access, AxisRequest(axis, base=DEFAULT_BASE, seed=seed), progress_of(progress, axis)
        )
        tell(f"Stored {record}.")
    composed = script.together[-1]
    tell("Composing " + " ".join(composed) + " …")
    model_folder = folder / "model"
    compose(access, CompositionRequest(as_terms(composed), model_folder, overwrite=True))
    tell("Turning the dials …")
    steered = load_steered(access, (), DEFAULT_BASE)
    settings = _sweep(steered, world, script, prompts, seed, progress)
    picture = folder / "curves.png"
    caption = (
        f"{world.name}, seed {seed}; {prompts} test prompts of each kind, temperature 1; "
        "bands are 95 % intervals over prompts"
    )
    _draw(settings, script, picture, caption)
    examples = _examples(steered, world, script, seed)
    return Demonstration(script, settings, examples, folder, picture, model_folder)


def _prepare(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise OutputError(
            f"{folder} holds something else than an earlier demo; choose another with --output."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).write_text("Made by `prefreg demo`; it may be replaced by the next one.\n")


def _sweep(
    steered: SteeredModel,
    world: BaseWorld,
    script: DemoScript,
    prompts: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Setting, ...]:
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


def _draw(settings: Sequence[Setting], script: DemoScript, picture: Path, caption: str) -> None:
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
    steered: SteeredModel, world: BaseWorld, script: DemoScript, seed: int
) -> tuple[Example, ...]:
    asked = [
        prompt
        for kind in script.kinds
        for prompt in world.prompts(kind, split="test", limit=EXAMPLES, seed=seed)
    ]
    answers: dict[str, list[str]] = {}
    for label in ("base", *script.compared):
        steered.set(as_terms(label) if label != "base" else ())
        answers[label] = steered.generate(asked, Sampling(96, 1.0, seed=seed))
    return tuple(
        Example(prompt, tuple((label, found[index]) for label, found in answers.items()))
        for index, prompt in enumerate(asked)
    )


def measure_behaviour(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: BaseWorld,
    *,
    prompts: int = 400,
    split: str = "test",
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
) -> Behaviour:
    """Sample one reply to each of `prompts` prompts of every kind, and score them."""
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    scored: dict[str, list[WorldVerdict]] = {}
    for kind in world.kinds:
        asked = world.prompts(kind, split=split, limit=prompts, seed=seed)
        replies = sample_answers(model, tokenizer, asked, sampling)
        scored[kind] = [world.score(*item) for item in zip(asked, replies, strict=True)]
    return summarise(world, scored)


def summarise(world: BaseWorld, scored: Mapping[str, Sequence[WorldVerdict]]) -> Behaviour:
    """Turn scored replies to prompts of every kind into figures."""
    found: dict[str, Estimate | None] = {}
    for name, measure in world.measures.items():
        verdicts = [verdict for kind in measure.kinds for verdict in scored[kind]]
        values = [value for verdict in verdicts for value in measure.read(verdict)]
        if not values:
            found[name] = None
        elif measure.share:
            found[name] = rate(round(sum(values)), len(values))
        else:
            found[name] = grouped_mean(values, range(len(values)))
    return found
