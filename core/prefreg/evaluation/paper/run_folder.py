"""The folder of an experiment: claimed by one request, and taken up again after a kill."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.errors import OutputError, UsageError
from prefreg.evaluation.paper.findings import Findings, markdown
from prefreg.files import write_whole

SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class ReproduceRequest:
    """How an experiment is carried out; every default is the command line's."""

    name: str
    """The experiment."""
    output: Path
    """Folder for the vectors, the results and the pictures.  [default: reproduced/NAME]"""
    base: str = DEFAULT_BASE
    """Base model."""
    axes: tuple[str, ...] = ()
    """As in a,b.  [default: the experiment's]"""
    seeds: tuple[int, ...] = SEEDS
    """Of the training: each is another φ."""
    prompts: int = 400
    """At most so many prompts, and pairs of each axis."""
    max_new_tokens: int = 96
    """Of each answer."""
    data: Path | None = None
    """A folder with prefs/AXIS/train.jsonl.gz and dev.jsonl.gz.  [default: each axis's source]"""
    limit: int | None = None
    """At most so many rows of an axis."""
    preset: str | None = None
    """Training settings: paper or quick."""
    settings: tuple[str, ...] = ()
    """A training setting."""
    lora: int | None = None
    """Train adapters of this rank."""
    accept_licence: bool = False
    """Use data that is not for commercial use."""
    reward_models: tuple[str, ...] = ()
    """A sequence classifier that scores answers: a folder or a hub id."""
    questions: Path | None = None
    """Multiple choice for retention.  [default: what the bundled model knows]"""
    tasks: tuple[str, ...] = ("commonsense_qa",)
    """Of lm-eval, for commonsense."""
    task_limit: int | None = None
    """Documents of each task."""
    task_path: Path | None = None
    """A folder of further tasks."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(
                f"--seeds {','.join(map(str, self.seeds))}: give one or more different seeds."
            )
        if len(set(self.axes)) < len(self.axes):
            raise UsageError(f"--axes {','.join(self.axes)} names an axis twice.")

    def to_json(self) -> dict[str, Any]:
        """Return all that decides the results, in a form that JSON can hold."""
        kept = asdict(self)
        del kept["output"]
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in kept.items()
        }


MARKER = "experiment.json"
RESULTS = "results.json"


def claim(request: ReproduceRequest) -> Path:
    """Make the folder of a request, or find that of an earlier run of the same one."""
    folder = request.output
    wanted = json.loads(json.dumps(request.to_json()))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file. Choose the name of a folder with --output.")
    try:
        if folder.exists() and any(folder.iterdir()):
            _require_same(folder, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / MARKER, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder with --output."
        ) from error
    return folder


def give_up(folder: Path) -> None:
    """Remove a folder in which nothing was done yet."""
    if [path.name for path in folder.iterdir()] == [MARKER]:
        (folder / MARKER).unlink()
        folder.rmdir()


def finish(folder: Path, request: ReproduceRequest, title: str, found: Findings) -> dict[str, Any]:
    """Write the results, as numbers and as a page, and return what the numbers file holds."""
    results = {
        "experiment": request.name,
        "request": request.to_json(),
        "recipe": found.recipe,
        "claims": [
            {"claim": each.text, "held": each.held, "figures": each.figures}
            for each in found.claims
        ],
        "pictures": [each.path.name for each in found.pictures],
        "notes": found.notes,
        "data": found.data,
    }
    try:
        write_whole(folder / RESULTS, json.dumps(results, ensure_ascii=False, indent=1) + "\n")
        write_whole(folder / "results.md", markdown(title, found))
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}. Make room; what was measured is kept."
        ) from error
    return results


def _require_same(folder: Path, wanted: dict[str, Any]) -> None:
    try:
        known = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict):
        raise OutputError(
            f"{folder} holds something else than an experiment. Choose another with --output."
        )
    if known.get("name") != wanted["name"]:
        raise OutputError(
            f"{folder} holds the experiment {known.get('name')!r}. Choose another with --output."
        )
    for name in sorted(wanted):
        if known.get(name) != wanted[name]:
            raise OutputError(
                f"{folder} was begun with {name} {known.get(name)!r}, not {wanted[name]!r}. "
                "Choose another folder with --output."
            )
