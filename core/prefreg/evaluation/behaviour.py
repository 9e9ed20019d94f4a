"""What a model says in a closed world, by the world's own figures."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.base_world import BaseWorld, WorldVerdict
from prefreg.evaluation.statistics import Estimate, grouped_mean, rate
from prefreg.models.generation import sample_answers
from prefreg.models.sampling import Sampling

Behaviour = Mapping[str, Estimate | None]
"""Figures over prompts, each with its interval; None where nothing could be counted."""


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
