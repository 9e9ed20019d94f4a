"""The whole story on the bundled model: train, compose, measure, draw."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefreg import pocket
from prefreg.composition.compose import compose
from prefreg.composition.composition_request import CompositionRequest
from prefreg.composition.in_memory import SteeredModel, load_steered
from prefreg.errors import OutputError
from prefreg.evaluation.behaviour import Behaviour, measure_behaviour
from prefreg.evaluation.plots import Curve, draw_curves
from prefreg.models.sampling import Sampling
from prefreg.progress import Progress, progress_of
from prefreg.registry.access import Access
from prefreg.terms import Term, as_terms
from prefreg.training.add_axis import add_axis
from prefreg.training.axis_request import AxisRequest

AXES = ("helpful", "harmless", "verbosity")
ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)
TOGETHER = (("helpful:1", "harmless:1"), ("helpful:1", "harmless:0.5", "verbosity:-0.3"))
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
                {"terms": list(map(str, each.terms)), "behaviour": asdict(each.behaviour)}
                for each in self.settings
            ],
            "examples": [
                {"prompt": each.prompt, "answers": dict(each.answers)} for each in self.examples
            ],
        }


def demonstrate(
    folder: Path,
    *,
    prompts: int,
    seed: int,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Demonstration:
    """Train, compose, measure and draw, all below `folder`."""
    tell = note or (lambda text: None)
    _prepare(folder)
    access = Access(folder / "registry.db")
    for axis in AXES:
        tell(f"Training the two poles of {axis} …")
        record = add_axis(
            access, AxisRequest(axis, base="pocket", seed=seed), progress_of(progress, axis)
        )
        tell(f"Stored {record}.")
    tell("Composing " + " ".join(TOGETHER[-1]) + " …")
    model_folder = folder / "model"
    compose(access, CompositionRequest(as_terms(TOGETHER[-1]), model_folder, overwrite=True))
    tell("Turning the dials …")
    steered = load_steered(access, (), "pocket")
    settings = _sweep(steered, prompts, seed, progress)
    picture = folder / "curves.png"
    _draw(settings, picture, prompts, seed)
    return Demonstration(settings, _examples(steered, seed), folder, picture, model_folder)


def _prepare(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise OutputError(
            f"{folder} holds something else than an earlier demo; choose another with --output."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).write_text("Made by `prefreg demo`; it may be replaced by the next one.\n")


def _sweep(
    steered: SteeredModel, prompts: int, seed: int, progress: Progress | None
) -> tuple[Setting, ...]:
    wanted: list[tuple[Term, ...]] = [()]
    wanted += [(Term(axis, eta),) for axis in AXES for eta in ETAS if eta]
    wanted += [as_terms(terms) for terms in TOGETHER]
    settings = []
    for step, terms in enumerate(wanted, 1):
        steered.set(terms)
        found = measure_behaviour(steered.model, steered.tokenizer, prompts=prompts, seed=seed)
        settings.append(Setting(terms, found))
        if progress is not None:
            progress("measuring", step, len(wanted))
    return tuple(settings)


def _draw(settings: Sequence[Setting], picture: Path, prompts: int, seed: int) -> None:
    def curve(label: str, axis: str, attribute: str) -> Curve:
        points = {}
        for setting in settings:
            if not setting.terms:
                points[0.0] = getattr(setting.behaviour, attribute)
            elif len(setting.terms) == 1 and setting.terms[0].axis == axis:
                points[setting.terms[0].eta] = getattr(setting.behaviour, attribute)
        return Curve(label, points)

    rates = (
        ("answers a benign question", "answers"),
        ("refuses an unsafe request", "refuses_unsafe"),
        ("malformed", "malformed"),
    )
    panels = {
        axis: [curve(label, axis, attribute) for label, attribute in rates]
        for axis in ("helpful", "harmless")
    }
    panels["verbosity"] = [curve("reply to a benign question", "verbosity", "words")]
    draw_curves(
        panels,
        picture,
        title="θ = θ_base + η·φ on the bundled model",
        caption=f"pocket, seed {seed}; {prompts} test prompts of each kind, temperature 1; "
        "bands are 95 % intervals over prompts",
        units={"helpful": "share", "harmless": "share", "verbosity": "words per reply"},
    )


def _examples(steered: SteeredModel, seed: int) -> tuple[Example, ...]:
    compared = (
        ("base", ()),
        ("helpful:1", as_terms("helpful:1")),
        ("harmless:1", as_terms("harmless:1")),
        ("verbosity:-1", as_terms("verbosity:-1")),
        ("verbosity:1", as_terms("verbosity:1")),
    )
    asked = [
        prompt
        for kind in ("benign", "unsafe")
        for prompt in pocket.prompts(kind, split="test", limit=EXAMPLES, seed=seed)
    ]
    answers: dict[str, list[str]] = {}
    for label, terms in compared:
        steered.set(terms)
        answers[label] = steered.generate_all(asked, Sampling(96, 1.0, seed=seed))
    return tuple(
        Example(prompt, tuple((label, found[index]) for label, found in answers.items()))
        for index, prompt in enumerate(asked)
    )
