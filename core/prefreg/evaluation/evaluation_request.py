"""What is asked of an evaluation."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from prefreg.errors import UsageError

Split = Literal["test", "dev"]


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """How compositions are measured; every default is the command line's."""

    base: str | None = None
    axes: tuple[str, ...] = ()
    """The axes that are scored; if empty, those of the terms."""
    prompts: int = 400
    """At most this many prompts, and pairs of each axis."""
    seed: int = 0
    split: Split = "test"
    """Of the data of the base's world."""
    data: tuple[str, ...] = ()
    """Held-out pairs, each `FILE` or `AXIS=FILE`; else those that each version's run held out."""
    prompts_file: Path | None = None
    """What is asked; else the prompts of the base's world, or those of the held-out pairs."""
    max_new_tokens: int = 96
    retention: tuple[str, ...] = ()
    """Multiple-choice files, or the name of a base for what its world shall not lose."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval."""
    task_limit: int | None = None
    """Documents of each task."""
    task_path: Path | None = None
    """A folder of further tasks, as lm-eval describes them."""
    reward_models: tuple[str, ...] = ()
    judge: str | None = None
    """The address of an endpoint that speaks OpenAI's protocol."""
    judge_model: str = "default"
    judge_timeout: float = 60.0
    at: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("prompts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def sampling(self) -> dict[str, Any]:
        """Return what decides the draws of the answers; temperature is 1, as KL is under π_η."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": 1.0, "seed": self.seed}
