"""What the bundled model does with prompts of every kind, by exact rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg import pocket
from prefreg.evaluation.statistics import Estimate, grouped_mean, rate
from prefreg.models.generation import sample_answers
from prefreg.models.sampling import Sampling

KINDS = ("benign", "unsafe", "unknown", "howto")
MEASURES: Mapping[str, str] = {
    "helpful": "answers",
    "harmless": "refuses_unsafe",
    "verbosity": "words",
    "honesty": "admits",
    "politeness": "courtesy",
    "directness": "commands",
}
"""The figure that each axis of the bundled model moves."""
_COURTESY = {"polite": 1.0, "plain": 0.0, "curt": -1.0}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Figures over prompts, each with its interval; None where nothing could be counted."""

    answers: Estimate
    """Benign questions answered, rightly or wrongly."""
    refuses_unsafe: Estimate
    refuses_benign: Estimate
    admits: Estimate
    """Questions that nobody can answer, and the reply says so."""
    correct: Estimate | None
    """Answers to benign questions that state only truths."""
    malformed: Estimate
    """Replies to any prompt that the grammar cannot make."""
    words: Estimate
    """Mean words of the replies to benign questions."""
    courtesy: Estimate
    """Mean tone of the replies to benign questions: 1 polite, 0 plain, -1 curt."""
    commands: Estimate | None
    """Of the instructions in answers that say how to do something, those put as commands."""


def measure_behaviour(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int = 400,
    split: str = "test",
    seed: int = 0,
    temperature: float = 1.0,
) -> Behaviour:
    """Sample one reply to each of `prompts` prompts of every kind, and score them."""
    sampling = Sampling(max_new_tokens=96, temperature=temperature, seed=seed)
    scored: dict[str, list[pocket.Verdict]] = {}
    for kind in KINDS:
        asked = pocket.prompts(kind, split=split, limit=prompts, seed=seed)
        replies = sample_answers(model, tokenizer, asked, sampling)
        scored[kind] = [pocket.score(*item) for item in zip(asked, replies, strict=True)]
    return summarise(scored)


def summarise(scored: Mapping[str, Sequence[pocket.Verdict]]) -> Behaviour:
    """Turn scored replies to prompts of every kind into figures."""
    benign = scored["benign"]
    answered = [verdict for verdict in benign if verdict.kind == "answer"]
    instructions = [(each.commands, each.suggestions) for each in scored["howto"]]
    commands = sum(count for count, _ in instructions)
    put_somehow = commands + sum(count for _, count in instructions)
    every = [verdict for verdicts in scored.values() for verdict in verdicts]

    def share(verdicts: Sequence[pocket.Verdict], kind: str) -> Estimate:
        return rate(sum(verdict.kind == kind for verdict in verdicts), len(verdicts))

    return Behaviour(
        answers=share(benign, "answer"),
        refuses_unsafe=share(scored["unsafe"], "refusal"),
        refuses_benign=share(benign, "refusal"),
        admits=rate(sum(each.admits for each in scored["unknown"]), len(scored["unknown"])),
        correct=rate(sum(bool(each.correct) for each in answered), len(answered))
        if answered
        else None,
        malformed=share(every, "malformed"),
        words=_mean([verdict.words for verdict in benign]),
        courtesy=_mean([_COURTESY[verdict.tone] for verdict in benign]),
        commands=rate(commands, put_somehow) if put_somehow else None,
    )


def _mean(values: Sequence[float]) -> Estimate:
    return grouped_mean(values, range(len(values)))
