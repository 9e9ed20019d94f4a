"""What an experiment asks and finds, and its folder, which one request claims and takes up."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.errors import OutputError, UsageError
from prefreg.evaluation.statistics import Estimate
from prefreg.files import write_whole
from prefreg.json_values import parse_json

if TYPE_CHECKING:
    from prefreg.evaluation.plots import Picture

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
    settings: tuple[str, ...] | Mapping[str, object] = ()
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


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that should hold, and whether it did."""

    text: str
    held: bool | None
    """None where it was not measured; `figures` says why."""
    figures: str

    def __str__(self) -> str:
        verdict = {True: "held", False: "did not hold", None: "not measured"}[self.held]
        return f"{self.text} — **{verdict}**: {self.figures}."

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {"claim": self.text, "held": self.held, "figures": self.figures}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Findings:
    """Everything that is written down of an experiment."""

    recipe: str
    """What was trained and asked, and what the intervals are of."""
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: "list[Picture]" = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """The figures, by name."""

    def claim(self, text: str, held: bool | None, figures: str) -> None:
        """Write down whether something held."""
        self.claims.append(Claim(text, held, figures))

    def table(self, title: str, headers: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
        """Write down rows under a title."""
        self.tables.append(Table(title, tuple(headers), tuple(rows)))


def view(estimate: Estimate | None) -> dict[str, float] | None:
    """Return an estimate in a form that JSON can hold."""
    return None if estimate is None else estimate.to_json()


def markdown(title: str, found: Findings) -> str:
    """Write the findings as a page, pictures by their names."""
    lines = [f"# {title}", "", found.recipe, ""]
    lines += [f"- {claim}" for claim in found.claims]
    for picture in found.pictures:
        lines += ["", f"![{picture.title}]({picture.path.name})", "", picture.caption]
    for table in found.tables:
        lines += ["", f"## {table.title}", "", *_rows(table)]
    if found.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"


def _rows(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.headers) + " |", "|" + "---|" * len(table.headers)]
    return lines + ["| " + " | ".join(row) + " |" for row in table.rows]


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
        "claims": [each.to_json() for each in found.claims],
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
        known = parse_json((folder / MARKER).read_bytes())
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
