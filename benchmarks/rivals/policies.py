"""What answers prompts, and what it costs to answer otherwise than the base."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Message
from prefreg.models.generation import Answer, sample
from prefreg.models.padded import length, step_inputs
from prefreg.models.sampling import Sampling


class Policy(Protocol):
    """A way to answer prompts."""

    def sample(self, prompts: Sequence[str], sampling: Sampling) -> list[Answer]:
        """Answer every prompt once; an answer's `prompt_ids` are those that the base reads."""

    def logits(self, answers: Sequence[Answer]) -> torch.Tensor:
        """Return the logits of every step of the answers, one answer after the other."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A method with its dials at certain places."""

    method: str
    dials: Mapping[Any, float | str]
    policy: Callable[[], Policy]
    """Make what answers; it holds until the next setting is made."""

    @property
    def name(self) -> str:
        """Return what the setting is called in records."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.dials.items())])


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A model as it stands."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def sample(self, prompts: Sequence[str], sampling: Sampling) -> list[Answer]:
        """Answer every prompt once."""
        turns = [(Message("user", prompt),) for prompt in prompts]
        return sample(self.model, self.tokenizer, turns, sampling)

    @torch.inference_mode()
    def logits(self, answers: Sequence[Answer]) -> torch.Tensor:
        """Return the logits of every step of the answers, one answer after the other."""
        inputs, steps = step_inputs(self.model, answers)
        logits: torch.Tensor = self.model(**inputs).logits[:, -steps.shape[1] :]
        return logits[steps]


def divergences(
    policy: Policy, base: Policy, answers: Sequence[Answer], *, batch_size: int = 128
) -> list[float]:
    """Return KL(π ‖ π_0) along each answer, in nats, over the whole vocabulary at every step."""
    found = [0.0] * len(answers)
    order = sorted(range(len(answers)), key=lambda index: length(answers[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        part = [answers[index] for index in batch]
        one, other = (each.logits(part).double().log_softmax(-1) for each in (policy, base))
        nats = (one.exp() * (one - other)).sum(-1).clamp(min=0)
        along = torch.split(nats, [len(answer.ids) for answer in part])
        for index, steps in zip(batch, along, strict=True):
            found[index] = float(steps.sum())
    return found
