"""What is measured only when it is asked for: retention, tasks, reward models, a judge."""

import importlib.metadata
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.checkpoints import resolve_base
from prefreg.evaluation.cache import digest
from prefreg.evaluation.choices import (
    Question,
    add_choices,
    fingerprint_questions,
    pocket_questions,
    pocket_replies,
    read_questions,
    score_choices,
)
from prefreg.evaluation.figures import Figure, Sheet, compare_values
from prefreg.evaluation.harness import add_tasks, require_tasks, run_tasks
from prefreg.evaluation.judge import Judge, length_controlled
from prefreg.evaluation.judgement import Judgement
from prefreg.evaluation.measured import Answers
from prefreg.evaluation.statistics import grouped_mean
from prefreg.flows.measuring.candidates import Candidate
from prefreg.flows.measuring.request import EvaluationRequest

if TYPE_CHECKING:
    from prefreg.evaluation.rewards import RewardModel
    from prefreg.flows.measuring.evaluator import Evaluator

_POCKET = "pocket"
_JUDGE_KEY = "OPENAI_API_KEY"

Judged = tuple[Sequence[Judgement], Sequence[Judgement]]


class Extras:
    """What was asked for, checked before anything is measured."""

    def __init__(self, request: EvaluationRequest) -> None:
        """Read the questions, find the reward models, and check the tasks and the judge's address.

        Raises:
            UsageError: There is no such task, lm-eval is missing, or the address is malformed.
            DataError: A file cannot be read.
            BaseModelError: There is no such reward model.
        """
        self._request = request
        self._questions = [(name, _read(name, request)) for name in request.retention]
        self._rewards = {name: resolve_base(name) for name in request.reward_models}
        self._loaded: dict[str, RewardModel] = {}
        self._judge = None
        if request.tasks:
            require_tasks(request.tasks, request.task_path)
        if request.judge is not None:
            key = os.environ.get(_JUDGE_KEY)
            self._judge = Judge(request.judge, request.judge_model, key, request.judge_timeout)

    def add(
        self,
        evaluator: "Evaluator",
        sheet: Sheet,
        candidate: Candidate,
        answers: tuple[Answers, Answers],
        judged: Judged,
    ) -> None:
        """Add the figures of a composition, beside those of its base."""
        base = Candidate(candidate.base, ())
        for _, questions in self._questions:
            scored = [measure_choices(evaluator, each, questions) for each in (base, candidate)]
            add_choices(sheet, questions, *scored)
        if self._request.tasks:
            add_tasks(sheet, *(measure_tasks(evaluator, each) for each in (base, candidate)))
        for name in self._rewards:
            scores = [
                self.reward(evaluator, name, side, given)
                for side, given in zip((base, candidate), answers, strict=True)
            ]
            make = partial(compare_values, unit="score", asked=evaluator.asked, sides=scores)
            sheet.add(f"reward.{Path(name).name}", make)
        if self._judge is not None:
            self._add_judge(evaluator, sheet, candidate, answers, judged)

    def reward(
        self, evaluator: "Evaluator", name: str, candidate: Candidate, answers: Answers
    ) -> list[float]:
        """Score answers with a reward model."""
        found = self._rewards[name]
        prompts = [each.prompt for each in evaluator.asked]
        protocol = {
            "model": found.fingerprint.weights,
            "tokenizer": found.fingerprint.tokenizer,
            "answers": digest([prompts, answers.texts]),
        }

        def compute() -> dict[str, Any]:
            from prefreg.evaluation.rewards import RewardModel

            if name not in self._loaded:
                self._loaded[name] = RewardModel(found)
            return {"scores": self._loaded[name].score(prompts, answers.texts)}

        scores: list[float] = evaluator.part(candidate, "reward", protocol, compute)["scores"]
        return scores

    def _add_judge(
        self,
        evaluator: "Evaluator",
        sheet: Sheet,
        candidate: Candidate,
        answers: tuple[Answers, Answers],
        judged: Judged,
    ) -> None:
        judge = self._judge
        assert judge is not None
        texts = [each.text for each in evaluator.asked]
        protocol = {
            "url": judge.url,
            "model": judge.model,
            "answers": digest([texts, answers[0].texts, answers[1].texts]),
        }
        step = evaluator.step("judge")

        def compute() -> dict[str, Any]:
            return {"wins": judge.compare(texts, answers[0].texts, answers[1].texts, step)}

        wins = evaluator.part(candidate, "judge", protocol, compute)["wins"]
        groups = [each.group for each in evaluator.asked]
        lengths = ([each.words for each in judged[0]], [each.words for each in judged[1]])
        count = len(set(groups))

        def plain(name: str) -> Figure:
            value = grouped_mean(wins, groups)
            return Figure(name, "share of prompts won", value, None, None, None, count)

        def controlled(name: str) -> Figure:
            value = length_controlled(wins, lengths, groups)
            return Figure(name, "share won at equal length", value, None, None, None, count)

        sheet.add("judge.wins", plain)
        sheet.add("judge.wins_length_controlled", controlled)


def _read(name: str, request: EvaluationRequest) -> list[Question]:
    if name == _POCKET:
        replies = pocket_replies(request.prompts, split=request.split, seed=request.seed)
        return [*pocket_questions(), *replies]
    return read_questions(Path(name))


def measure_choices(
    evaluator: "Evaluator", candidate: Candidate, questions: Sequence[Question]
) -> dict[str, Any]:
    """Return the log-likelihood and the tokens of every choice of a composition."""
    protocol = {"questions": fingerprint_questions(questions)}

    def compute() -> dict[str, Any]:
        model = evaluator.bench.model(candidate)
        return score_choices(model, evaluator.bench.tokenizer, questions)

    return evaluator.part(candidate, "choices", protocol, compute)


def measure_tasks(evaluator: "Evaluator", candidate: Candidate) -> dict[str, Any]:
    """Return what each document of the request's tasks scores, by task and metric."""
    request = evaluator.request
    protocol = {
        "tasks": list(request.tasks),
        "limit": request.task_limit,
        "folder": str(request.task_path),
        "lm-eval": importlib.metadata.version("lm_eval"),
    }

    def compute() -> dict[str, Any]:
        model = evaluator.bench.model(candidate)
        found = run_tasks(
            model,
            evaluator.bench.tokenizer,
            request.tasks,
            limit=request.task_limit,
            folder=request.task_path,
        )
        return dict(found)

    return evaluator.part(candidate, "tasks", protocol, compute)
