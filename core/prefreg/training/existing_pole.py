"""A pole that somebody has trained already."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.errors import BaseModelError, UsageError
from prefreg.models.loading import load_model
from prefreg.training.guards import Failure
from prefreg.vectors.tensors import CheckpointTensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pole = Literal["positive", "negative"]
_ADVICE = "the checkpoint prefers something else, or has collapsed"


@dataclass(frozen=True, slots=True)
class GivenPole:
    """A checkpoint that stands for one pole, so that only the other is trained."""

    pole: Pole
    model: BaseModel

    def load(self) -> "PreTrainedModel":
        """Load its weights in float32."""
        return load_model(self.model)

    def excuse(self, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        """Give the failures of a checkpoint advice that fits one that was not trained here."""
        return tuple(replace(failure, advice=_ADVICE) for failure in failures)

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded about it: its name without the way there, and its content."""
        found = self.model
        name = found.name if found.revision else found.path.name
        return {"name": name, "revision": found.revision, "weights": found.fingerprint.weights}


def find_given(
    base: BaseModel, checkpoints: Mapping[Pole, str | None], *, lora: bool
) -> GivenPole | None:
    """Open the checkpoint that is given for a pole, and check that it is a child of the base."""
    wanted = [(pole, spec) for pole, spec in checkpoints.items() if spec is not None]
    if not wanted:
        return None
    if len(wanted) > 1:
        raise UsageError(
            "Both poles are there, so nothing is left to train: "
            "`prefreg import NAME --plus DIR --minus DIR --base DIR` stores their difference."
        )
    if lora:
        raise UsageError(
            "An existing checkpoint is a pole of whole weights: leave --lora out, or merge both."
        )
    [(pole, spec)] = wanted
    model = resolve_base(spec)
    if model.fingerprint.weights == base.fingerprint.weights:
        raise BaseModelError(f"{model.name} holds the weights of the base, so it is no pole.")
    CheckpointTensors.of_pole(model.checkpoint, base.checkpoint)
    return GivenPole(pole, model)
