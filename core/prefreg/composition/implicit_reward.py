"""An axis as a judge: r(x, y) = β·[log π₊(y|x) − log π₋(y|x)], the implicit reward of DPO.

The poles are the base at ± φ/2, so that φ alone is needed: what both poles learnt alike, which φ
does not hold, cancels to first order. A φ₊ = θ₊ − θ_base has the base for its other pole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from prefreg.models.log_probs import text_log_probs
from prefreg.models.padded import Text
from prefreg.progress import Progress, steps_of
from prefreg.registry import VersionRecord

BETA = 0.1
"""That of DPO where a record has none, as of a vector that was trained elsewhere."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What an axis makes of an answer; it compares answers to one prompt."""

    value: float
    """β times nats: at 1, the odds of the answer are e times as high as at 0."""
    tokens: int
    """Of the answer, with the one that ends it."""

    @property
    def per_token(self) -> float:
        """The reward over the tokens: a long answer has more of either sign."""
        return self.value / self.tokens


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """An answer with the reward that it is ranked by."""

    answer: str
    reward: Reward

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {"answer": self.answer, **reward_to_json(self.reward)}


def reward_to_json(reward: Reward) -> dict[str, Any]:
    """Return a reward in a form that JSON can hold."""
    return {"reward": reward.value, "per_token": reward.per_token, "tokens": reward.tokens}


def beta_of(record: VersionRecord) -> float:
    """Return the β that the poles of a version were trained with."""
    training = record.metadata.get("training") or {}
    known = (training.get("defaults") or {}) | (training.get("settings") or {})
    return float(known.get("beta") or BETA)


def pole_etas(record: VersionRecord) -> tuple[float, float]:
    """Return where along φ the poles lie."""
    return (1.0, 0.0) if record.contrast == "positive-only" else (0.5, -0.5)


def implicit_rewards(
    turn: Callable[[float], PreTrainedModel],
    texts: Sequence[Text],
    record: VersionRecord,
    progress: Progress | None = None,
) -> list[Reward]:
    """Score answers behind their prompts, both in tokens, by a version.

    `turn` gives the model the weights of base + η·φ and returns it; it is called twice.
    """
    plus, minus = (
        text_log_probs(turn(eta), texts, progress=steps_of(progress, f"{pole} pole"))
        for eta, pole in zip(pole_etas(record), ("positive", "negative"), strict=True)
    )
    values = (beta_of(record) * (plus - minus)).tolist()
    return [Reward(value, len(answer)) for value, (_, answer) in zip(values, texts, strict=True)]
