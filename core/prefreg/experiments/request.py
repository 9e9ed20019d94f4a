"""What is asked of an experiment."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefreg.errors import UsageError

SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class ReproduceRequest:
    """How an experiment is carried out; every default is the command line's."""

    name: str
    output: Path
    base: str = "pocket"
    axes: tuple[str, ...] = ()
    """If empty, those of the experiment, which the bundled model knows."""
    seeds: tuple[int, ...] = SEEDS
    """Of the training; each seed is another φ."""
    prompts: int = 400
    max_new_tokens: int = 96
    data: Path | None = None
    """A pack of pairs: `prefs/AXIS/train.jsonl.gz` and `dev.jsonl.gz`."""
    limit: int | None = None
    """At most so many rows for each axis."""
    preset: str | None = None
    settings: tuple[str, ...] = ()
    """`key=value` of the training, as `add-axis --set`."""
    lora: int | None = None
    accept_licence: bool = False
    reward_models: tuple[str, ...] = ()
    """Sequence classifiers that score every answer too."""
    questions: Path | None = None
    """Multiple choice, for a base other than the bundled one."""
    tasks: tuple[str, ...] = ("commonsense_qa",)
    """Of lm-eval."""
    task_limit: int | None = None
    task_path: Path | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(
                f"--seeds {','.join(map(str, self.seeds))}: give one or more different seeds."
            )
        if len(set(self.axes)) < len(self.axes):
            raise UsageError(f"--axes {','.join(self.axes)} names an axis twice.")

    def as_dict(self) -> dict[str, Any]:
        """Return all that decides the results, in a form that JSON can hold."""
        kept = asdict(self)
        del kept["output"]
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in kept.items()
        }
