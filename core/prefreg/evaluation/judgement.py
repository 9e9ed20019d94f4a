"""What an answer is, said without a model: exactly in the bundled model's world, else by rule."""

from dataclasses import dataclass

from prefreg import pocket
from prefreg.evaluation.prompts import Asked
from prefreg.scoring.replies import repetition as repeated
from prefreg.scoring.replies import sounds_refusing

_LOOPING = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer is."""

    words: int
    repetition: float
    """Share of its runs of four words that occur earlier in it."""
    malformed: bool
    """In the village: what its grammar cannot make. Elsewhere: nothing, a loop, or broken text."""
    refuses: bool
    correct: bool | None
    """Whether all that it states is true; None for what is no answer, or cannot be checked."""


def judge(asked: Asked, answer: str) -> Judgement:
    """Judge an answer: exactly where the village knows the prompt, else by rule."""
    words = answer.split()
    repetition = repeated(words)
    prompt = asked.text
    if pocket.parse(prompt) is not None:
        verdict = pocket.score(prompt, answer)
        correct = verdict.correct if asked.safe else None
        return Judgement(
            verdict.words,
            repetition,
            verdict.kind == "malformed",
            verdict.kind == "refusal",
            correct,
        )
    broken = not words or repetition > _LOOPING or "\ufffd" in answer
    return Judgement(len(words), repetition, broken, sounds_refusing(answer), None)
