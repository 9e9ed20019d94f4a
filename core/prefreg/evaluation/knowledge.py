"""What a composition still knows: multiple choice by log-likelihood, and tasks of lm-eval.

lm-eval is an extra that only this file needs.
"""

import difflib
import importlib.util
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Row
from prefreg.axes.base_world import ChoiceQuestion
from prefreg.axes.isolation import off_stdout
from prefreg.axes.row_sources import read_rows
from prefreg.checkpoints.bundled import world_of
from prefreg.data.rendering import encode_prompt
from prefreg.data.tokens import TokenPair
from prefreg.errors import DataError, UsageError, reason
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.figures import Column, Metric, as_column
from prefreg.files import hash_bytes
from prefreg.models.log_probs import answer_log_probs, require_finite_scores


def read_questions(path: Path) -> list[ChoiceQuestion]:
    """Read a file of rows with `question`, `choices` and `answer_index`.

    `source` tells apart what is reported apart, and is the file's name where it is missing.
    """
    found = []
    for number, row in read_rows(path):
        try:
            found.append(_read_row(row, path.name.partition(".")[0], number))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return found


def find_questions(request: EvaluationRequest) -> list[list[ChoiceQuestion]]:
    """Read the questions of files, or those of the worlds that are named; check the tasks."""
    if request.tasks:
        require_tasks(request.tasks, request.task_path)
    found = []
    for name in request.retention:
        world = world_of(name)
        if world is None:
            found.append(read_questions(Path(name)))
        else:
            count, split, seed = request.prompts, request.split, request.seed
            found.append(world.kept_questions(count, split=split, seed=seed))
    return found


def fingerprint_questions(questions: Sequence[ChoiceQuestion]) -> str:
    """Return the sha256 of questions and choices, in their order."""
    content = json.dumps([[each.prompt, each.choices] for each in questions], ensure_ascii=False)
    return hash_bytes(content.encode("utf-8", "surrogatepass"))


def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[ChoiceQuestion],
) -> dict[str, Any]:
    """Return the log-likelihood and the tokens of every choice, question by question."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    encoded = [_encode(question, tokenizer, context) for question in questions]
    pairs = []
    for prompt, answers in encoded:
        # Choices are scored two at a time; an odd one stands beside itself.
        for place in range(0, len(answers), 2):
            two = (answers[place], answers[min(place + 1, len(answers) - 1)])
            pairs.append(TokenPair(array("i", prompt), *(array("i", ids) for ids in two)))
    scored = require_finite_scores(model, answer_log_probs(model, pairs))
    flat = torch.stack([scored.chosen, scored.rejected], dim=1).flatten().tolist()
    nats, start = [], 0
    for _, answers in encoded:
        nats.append(flat[start : start + len(answers)])
        start += len(answers) + len(answers) % 2
    return {"nats": nats, "tokens": [[len(ids) for ids in answers] for _, answers in encoded]}


def choice_metrics(
    questions: Sequence[ChoiceQuestion],
    scored: Callable[[Candidate], Mapping[str, Any]],
    *,
    prefix: str = "",
    unnormalised: bool = False,
) -> Iterator[Metric]:
    """Yield the share of right choices of each source, by likelihood per character.

    With `unnormalised` by the likelihood itself too. Questions with one choice have no right one:
    of them it is the likelihood per token.
    """
    for source in dict.fromkeys(each.source for each in questions):
        places = [place for place, each in enumerate(questions) if each.source == source]
        groups = [questions[place].group for place in places]
        chance = sum(1 / len(questions[place].choices) for place in places) / len(places)

        def right(
            candidate: Candidate, places: Sequence[int] = places, normalised: bool = True
        ) -> Column:
            nats = scored(candidate)["nats"]
            return as_column(is_right(questions[at], nats[at], normalised) for at in places)

        def likely(candidate: Candidate, places: Sequence[int] = places) -> Column:
            found = scored(candidate)
            return as_column(found["nats"][at][0] / found["tokens"][at][0] for at in places)

        name = prefix + source
        if chance == 1:
            yield Metric(name, "nats per token", groups, likely)
            continue
        yield Metric(name, "share of questions", groups, right, chance=chance)
        if unnormalised:
            read = partial(right, normalised=False)
            unit = "share of questions"
            yield Metric(f"{name}_unnormalised", unit, groups, read, chance=chance)


def is_right(question: ChoiceQuestion, nats: Sequence[float], normalised: bool = True) -> float:
    """Return 1 where the likeliest choice, per character unless told otherwise, is the answer."""
    if normalised:
        sizes = [len(choice.encode()) for choice in question.choices]
        nats = [value / size for value, size in zip(nats, sizes, strict=True)]
    return float(int(np.argmax(nats)) == question.answer)


def _encode(
    question: ChoiceQuestion, tokenizer: PreTrainedTokenizerBase, context: int | None
) -> tuple[list[int], list[list[int]]]:
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


def _read_row(row: Row, name: str, number: int) -> ChoiceQuestion:
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


Scores = dict[str, dict[str, list[float]]]
"""By task and metric, the value of each of its documents."""


def require_tasks(tasks: Sequence[str], folder: Path | None = None) -> None:
    """Check that lm-eval is there and knows the tasks."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("--tasks needs lm-eval: pip install 'prefreg[lm-eval]'.")
    known = _manager(tuple(tasks), folder).all_tasks
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"lm-eval has no task {task!r}.{meant} `lm-eval ls tasks` lists them.")


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    folder: Path | None = None,
) -> Scores:
    """Run tasks and return what each document scored, of every metric that has numbers."""
    try:
        with off_stdout():
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM

            language_model = HFLM(
                pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=16
            )
            found = simple_evaluate(
                model=language_model,
                tasks=list(tasks),
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
                task_manager=_manager(tuple(tasks), folder),
            )
    except Exception as error:  # it lets the errors of data sets and of the Hub through
        raise DataError(f"lm-eval failed on {', '.join(tasks)}: {reason(error)}") from error
    return {task: _columns(samples) for task, samples in found["samples"].items()}


def task_metrics(
    scored: Callable[[Candidate], Scores], base: Candidate, *, prefix: str = ""
) -> Iterator[Metric]:
    """Yield every metric of every task, a value a document."""
    for task, metrics in scored(base).items():
        for metric, values in metrics.items():

            def read(candidate: Candidate, task: str = task, metric: str = metric) -> Column:
                return as_column(scored(candidate)[task][metric])

            groups = [str(place) for place in range(len(values))]
            yield Metric(f"{prefix}{task}.{metric}", "mean over documents", groups, read)


def _columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    names = [name for name in ordered[0].get("metrics", ()) if name in ordered[0]]
    return {
        name: [float(sample[name]) for sample in ordered]
        for name in names
        if all(isinstance(sample[name], int | float) for sample in ordered)
    }


@lru_cache(maxsize=2)
def _manager(tasks: tuple[str, ...], folder: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    if folder is not None:
        # Reading the thousands of tasks that lm-eval brings takes seconds.
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if {*tasks} <= {*own.all_tasks}:
            return own
    return TaskManager(include_path=None if folder is None else str(folder))
