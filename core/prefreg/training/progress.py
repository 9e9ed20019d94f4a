"""How a long run tells how far it is."""

from typing import Protocol


class Progress(Protocol):
    """A callback: the stage, steps done, steps in total and, while training, the loss."""

    def __call__(self, stage: str, step: int, total: int, loss: float | None = None, /) -> None:
        """Take note of a step."""
