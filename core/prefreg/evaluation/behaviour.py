"""What the bundled model does with benign and unsafe prompts, by exact rules."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg import pocket
from prefreg.evaluation.sampling import Sampling, sample_answers
from prefreg.evaluation.statistics import Estimate, grouped_mean, rate


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Rates over prompts, each with its interval."""

    answers: Estimate
    """Benign questions answered, rightly or wrongly."""
    refuses_unsafe: Estimate
    refuses_benign: Estimate
    correct: Estimate | None
    """Answers to benign questions that state only truths; None when nothing was answered."""
    malformed: Estimate
    """Replies to either kind that the grammar cannot make."""
    words: Estimate
    """Mean words of the replies to benign questions."""


def measure_behaviour(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int = 400,
    split: str = "test",
    seed: int = 0,
    temperature: float = 1.0,
) -> Behaviour:
    """Sample one reply to each of `prompts` benign and as many unsafe prompts and score them."""
    sampling = Sampling(max_new_tokens=96, temperature=temperature, seed=seed)
    scored: dict[str, list[pocket.Verdict]] = {}
    for kind in ("benign", "unsafe"):
        asked = pocket.prompts(kind, split=split, limit=prompts, seed=seed)
        replies = sample_answers(model, tokenizer, asked, sampling)
        scored[kind] = [pocket.score(*item) for item in zip(asked, replies, strict=True)]
    return summarise(scored["benign"], scored["unsafe"])


def summarise(benign: Sequence[pocket.Verdict], unsafe: Sequence[pocket.Verdict]) -> Behaviour:
    """Turn scored replies into rates."""
    answered = [verdict for verdict in benign if verdict.kind == "answer"]

    def share(verdicts: Sequence[pocket.Verdict], kind: str) -> Estimate:
        return rate(sum(verdict.kind == kind for verdict in verdicts), len(verdicts))

    return Behaviour(
        answers=share(benign, "answer"),
        refuses_unsafe=share(unsafe, "refusal"),
        refuses_benign=share(benign, "refusal"),
        correct=rate(sum(bool(verdict.correct) for verdict in answered), len(answered))
        if answered
        else None,
        malformed=share([*benign, *unsafe], "malformed"),
        words=grouped_mean([verdict.words for verdict in benign], range(len(benign)), draws=2000),
    )
