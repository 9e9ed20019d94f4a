"""Multiple choice by log-likelihood: what a composition still knows."""

import json
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefreg.axes.axis import Row
from prefreg.axes.base_world import ChoiceQuestion
from prefreg.axes.row_sources import read_rows
from prefreg.errors import DataError
from prefreg.evaluation.figures import Figure, Sheet, compare_values
from prefreg.evaluation.prompts import Asked
from prefreg.evaluation.statistics import grouped_rate
from prefreg.files import hash_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ABOVE_CHANCE = 0.05
"""A base whose lower bound is not this much above chance knows too little to forget it."""


def read_questions(path: Path) -> list[ChoiceQuestion]:
    """Read a `.jsonl` or `.jsonl.gz` file with `question`, `choices` and `answer_index`.

    `source` tells apart what is reported apart, and is the file's name where it is missing.
    """
    found = []
    for number, row in read_rows(path):
        try:
            found.append(_read(row, path.name.partition(".")[0], number))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return found


def fingerprint_questions(questions: Sequence[ChoiceQuestion]) -> str:
    """Return the sha256 of questions and choices, in their order."""
    content = json.dumps([[each.prompt, each.choices] for each in questions], ensure_ascii=False)
    return hash_bytes(content.encode("utf-8", "surrogatepass"))


def score_choices(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[ChoiceQuestion],
) -> dict[str, Any]:
    """Return the log-likelihood and the tokens of every choice, question by question."""
    # Only what is not cached needs torch.
    import torch

    from prefreg.data.tokens import TokenPair
    from prefreg.models.log_probs import answer_log_probs

    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    encoded = [_encode(question, tokenizer, context) for question in questions]
    pairs = []
    for prompt, answers in encoded:
        # Choices are scored two at a time; an odd one stands beside itself.
        for place in range(0, len(answers), 2):
            two = (answers[place], answers[min(place + 1, len(answers) - 1)])
            pairs.append(TokenPair(array("i", prompt), *(array("i", ids) for ids in two)))
    scored = answer_log_probs(model, pairs)
    flat = torch.stack([scored.chosen, scored.rejected], dim=1).flatten().tolist()
    nats, start = [], 0
    for _, answers in encoded:
        nats.append(flat[start : start + len(answers)])
        start += len(answers) + len(answers) % 2
    return {"nats": nats, "tokens": [[len(ids) for ids in answers] for _, answers in encoded]}


def add_choices(
    sheet: Sheet,
    questions: Sequence[ChoiceQuestion],
    base: Mapping[str, Any],
    turned: Mapping[str, Any],
) -> None:
    """Add the share of right choices of each source, by likelihood per character and as it is."""
    for source in dict.fromkeys(each.source for each in questions):
        places = [place for place, each in enumerate(questions) if each.source == source]
        if all(len(questions[place].choices) == 1 for place in places):
            likelihoods = [_per_token(places, side) for side in (base, turned)]
            make = partial(_compared, questions=questions, places=places, sides=likelihoods)
            sheet.add(f"retention.{source}", make)
            continue
        for suffix, normalised in (("", True), ("_unnormalised", False)):
            right = [_right(questions, places, each, normalised) for each in (base, turned)]
            accuracy = partial(_accuracy, questions=questions, places=places, sides=right)
            sheet.add(f"retention.{source}{suffix}", accuracy)


def _accuracy(
    name: str,
    questions: Sequence[ChoiceQuestion],
    places: Sequence[int],
    sides: Sequence[list[float]],
) -> Figure | str:
    asked = [Asked("", questions[place].group) for place in places]
    chance = float(np.mean([1 / len(questions[place].choices) for place in places]))
    known = grouped_rate([bool(hit) for hit in sides[0]], [each.group for each in asked])
    if known.low <= chance + ABOVE_CHANCE:
        return (
            f"not measurable: the base is right in {known}, where chance is {chance:.2f}, so "
            "there is nothing to forget"
        )
    return compare_values(name, "share of questions", asked, sides)


def _compared(
    name: str,
    questions: Sequence[ChoiceQuestion],
    places: Sequence[int],
    sides: Sequence[list[float]],
) -> Figure:
    asked = [Asked("", questions[place].group) for place in places]
    return compare_values(name, "nats per token", asked, sides)


def _per_token(places: Sequence[int], side: Mapping[str, Any]) -> list[float]:
    return [side["nats"][place][0] / side["tokens"][place][0] for place in places]


def _right(
    questions: Sequence[ChoiceQuestion],
    places: Sequence[int],
    side: Mapping[str, Any],
    normalised: bool,
) -> list[float]:
    return [is_right(questions[place], side["nats"][place], normalised) for place in places]


def is_right(question: ChoiceQuestion, nats: Sequence[float], normalised: bool = True) -> float:
    """Return 1 where the likeliest choice, per character unless told otherwise, is the answer."""
    if normalised:
        sizes = [len(choice.encode()) for choice in question.choices]
        nats = [value / size for value, size in zip(nats, sizes, strict=True)]
    return float(int(np.argmax(nats)) == question.answer)


def _encode(
    question: ChoiceQuestion, tokenizer: "PreTrainedTokenizerBase", context: int | None
) -> tuple[list[int], list[list[int]]]:
    from prefreg.data.rendering import encode_prompt

    prompt = encode_prompt(question.prompt, tokenizer)
    if isinstance(question.prompt, str):
        whole = [encode_prompt(f"{question.prompt} {each}", tokenizer) for each in question.choices]
        # A token may span the end of the question; it then is the answer's.
        same = min(_shared(prompt, ids) for ids in whole)
        prompt, answers = prompt[:same], [ids[same:] for ids in whole]
    else:
        answers = [
            tokenizer(each, add_special_tokens=False, verbose=False)["input_ids"]
            for each in question.choices
        ]
    longest = len(prompt) + max(map(len, answers))
    if context is not None and longest > context:
        raise DataError(
            f"A question of {longest} tokens with its choice does not fit the model's context of "
            f"{context}: {str(question.prompt)[:60]!r}. Leave it out."
        )
    return prompt, answers


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], pairs))


def _read(row: Row, name: str, number: int) -> ChoiceQuestion:
    text, choices, answer = (row.get(key) for key in ("question", "choices", "answer_index"))
    if not isinstance(text, str) or not text.strip():
        raise DataError("column 'question' is no text")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(each, str) and each.strip() for each in choices)
    ):
        raise DataError("column 'choices' is no list of two or more texts")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DataError(f"column 'answer_index' is {answer!r}, no place in the choices")
    source = row.get("source", name)
    if not isinstance(source, str) or not source.strip():
        raise DataError("column 'source' is no text")
    return ChoiceQuestion(
        text.strip(), tuple(choices), answer, source, str(row.get("group", number))
    )
