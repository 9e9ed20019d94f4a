"""Measure compositions on one base: part by part, from the cache where it was done before."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.axes.axis import Axis
from prefreg.axes.base_world import ChoiceQuestion
from prefreg.axes.isolation import measure
from prefreg.axes.plugins import load_axes
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.bundled import world_of
from prefreg.composition.resolve import refuse_mixed_contrasts, resolve_on
from prefreg.errors import AxisError, DataError
from prefreg.evaluation.candidates import Bench, Candidate, EvaluationCache, digest, find_versions
from prefreg.evaluation.choices import (
    add_choices,
    fingerprint_questions,
    read_questions,
    score_choices,
)
from prefreg.evaluation.divergence import Answers, PairScores
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.figures import (
    Figure,
    Figures,
    Sheet,
    add_metric,
    add_pairs,
    add_reserved,
    compare_values,
)
from prefreg.evaluation.harness import add_tasks, require_tasks, run_tasks
from prefreg.evaluation.heldout_pairs import HeldOut, check_data_options, find_pairs, find_world
from prefreg.evaluation.judge import Judge, Judgement, judge, length_controlled
from prefreg.evaluation.prompts import (
    Asked,
    fingerprint_prompts,
    prompts_of,
    read_prompts,
    world_prompts,
)
from prefreg.evaluation.statistics import grouped_mean
from prefreg.progress import Progress, steps_of
from prefreg.registry import VersionRecord
from prefreg.registry.access import Access
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.evaluation.rewards import RewardModel

_JUDGE_KEY = "OPENAI_API_KEY"

Judged = tuple[Sequence[Judgement], Sequence[Judgement]]


class Extras:
    """What was asked for, checked before anything is measured."""

    def __init__(self, request: EvaluationRequest) -> None:
        """Read the questions, find the reward models, and check tasks and the judge's address."""
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
        step = steps_of(evaluator.progress, "judge")

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


def _read(name: str, request: EvaluationRequest) -> list[ChoiceQuestion]:
    world = world_of(name)
    if world is None:
        return read_questions(Path(name))
    return world.kept_questions(request.prompts, split=request.split, seed=request.seed)


def measure_choices(
    evaluator: "Evaluator", candidate: Candidate, questions: Sequence[ChoiceQuestion]
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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one composition does, beside the base."""

    candidate: Candidate
    figures: Figures
    prompts: int
    groups: int
    request: EvaluationRequest
    sources: Mapping[str, str]
    """Where the pairs of each axis came from."""
    cached: bool
    """Whether nothing had to be computed by a model."""


@dataclass(slots=True)
class Evaluator:
    """Everything that compositions of the same axes share: base, prompts, pairs, cache."""

    request: EvaluationRequest
    base: BaseModel
    axes: dict[str, Axis]
    asked: list[Asked]
    pairs: dict[str, HeldOut]
    missing: dict[str, str]
    """Figures that cannot be had, with the reason."""
    access: Access
    bench: Bench
    extras: Extras
    cache: EvaluationCache = field(default_factory=EvaluationCache)
    progress: Progress | None = None
    computed: int = 0
    """Parts that were not in the cache."""

    def candidate(self, terms: Sequence[Term]) -> Candidate:
        """Find the versions of terms on this base."""
        if not terms:
            return Candidate(self.base, ())
        with self.access.reading() as store:
            found = resolve_on(store, terms, self.base.fingerprint.weights, self.request.at)
        refuse_mixed_contrasts([term.record for term in found if term.eta])
        return Candidate(self.base, tuple((term.eta, term.record) for term in found if term.eta))

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Measure a composition and the base, and compare them."""
        before = self.computed
        sheet = Sheet([], dict(self.missing))
        base = Candidate(self.base, ())
        answers = (self.answers(base), self.answers(candidate))
        judged = (self.judge(answers[0]), self.judge(answers[1]))
        for name, axis in self.axes.items():
            if axis.metric is None:
                sheet.missing[name] = "the axis brings no metric"
            else:
                scores = (self.scores(axis, answers[0]), self.scores(axis, answers[1]))
                add_metric(sheet, name, self.asked, scores, judged)
            if name in self.pairs:
                held = self.pairs[name]
                scored = (self.pair_scores(base, name), self.pair_scores(candidate, name))
                add_pairs(sheet, name, held.groups, *scored)
        add_reserved(sheet, self.asked, answers[1], judged)
        self.extras.add(self, sheet, candidate, answers, judged)
        return Evaluation(
            candidate=candidate,
            figures=sheet.finish(),
            prompts=len(self.asked),
            groups=len({each.group for each in self.asked}),
            request=self.request,
            sources={name: held.source for name, held in self.pairs.items()},
            cached=self.computed == before,
        )

    def answers(self, candidate: Candidate) -> Answers:
        """Sample an answer to every prompt, with the KL of each from the base."""
        protocol = {"prompts": fingerprint_prompts(self.asked), **self.request.sampling()}
        found = self.part(candidate, "answers", protocol, lambda: self._answer(candidate))
        return Answers.from_dict(found)

    def pair_scores(self, candidate: Candidate, axis: str) -> PairScores:
        """Score both answers of the held-out pairs of an axis, teacher-forced."""
        held = self.pairs[axis]
        protocol = {"pairs": held.fingerprint, "count": len(held.pairs)}
        found = self.part(
            candidate, f"pairs-{axis}", protocol, lambda: self._score(candidate, held)
        )
        return PairScores.from_dict(found)

    def scores(self, axis: Axis, answers: Answers) -> list[float | None]:
        """Apply an axis's metric to answers."""
        return [
            measure(axis, asked.text, text)
            for asked, text in zip(self.asked, answers.texts, strict=True)
        ]

    def judge(self, answers: Answers) -> list[Judgement]:
        """Say what each answer is."""
        return [judge(*both) for both in zip(self.asked, answers.texts, strict=True)]

    def part(
        self,
        candidate: Candidate,
        name: str,
        protocol: Mapping[str, Any],
        compute: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """Return a part from the cache, or compute and keep it."""
        kept = self.cache.read(candidate.key, name, protocol)
        if isinstance(kept, dict):
            return kept
        self.computed += 1
        found = compute()
        self.cache.write(candidate.key, name, protocol, found)
        return found

    def _answer(self, candidate: Candidate) -> dict[str, Any]:
        from prefreg.evaluation.divergence import divergences
        from prefreg.models.generation import sample
        from prefreg.models.sampling import Sampling

        model = self.bench.model(candidate)
        sampled = sample(
            model,
            self.bench.tokenizer,
            [each.prompt for each in self.asked],
            Sampling(**self.request.sampling()),
            progress=steps_of(self.progress, f"answers of {candidate.formula}"),
        )
        nats = [0.0] * len(sampled)
        if candidate.versions:
            nats = divergences(model, self.bench.dials.pristine, sampled)
        return Answers(
            texts=[answer.text for answer in sampled],
            tokens=[len(answer.ids) for answer in sampled],
            nats=nats,
            ended=[answer.ended for answer in sampled],
        ).to_json()

    def _score(self, candidate: Candidate, held: HeldOut) -> dict[str, Any]:
        from prefreg.data.tokens import tokenize_pairs
        from prefreg.models.loading import load_limits
        from prefreg.models.log_probs import answer_log_probs

        context, vocabulary = load_limits(self.base)
        tokens = tokenize_pairs(
            held.pairs,
            self.bench.tokenizer,
            max_length=context or 1 << 30,
            policy="drop",
            vocabulary=vocabulary,
        )
        scored = answer_log_probs(
            self.bench.model(candidate),
            tokens.pairs,
            progress=steps_of(self.progress, f"pairs of {candidate.formula}"),
        )
        return PairScores(
            kept=list(tokens.kept),
            chosen=scored.chosen.tolist(),
            rejected=scored.rejected.tolist(),
            chosen_tokens=scored.chosen_tokens.tolist(),
            rejected_tokens=scored.rejected_tokens.tolist(),
        ).to_json()


def open_evaluator(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Evaluator:
    """Find everything that evaluating these terms, at any coefficients, needs."""
    extras = Extras(request)
    found = find_versions(access, terms, request.base, request.at)
    records = {term.record.axis: term.record for term in found.terms}
    missing: dict[str, str] = {}
    axes = _choose_axes(request, records, missing)
    check_data_options(request.data, axes)
    pairs: dict[str, HeldOut] = {}
    for name, axis in axes.items():
        try:
            pairs[name] = find_pairs(axis, records.get(name), found.base.name, request)
        except DataError as error:
            if request.data:
                raise
            missing[f"{name}.margin"] = missing[f"{name}.accuracy"] = str(error).rstrip(".")
    return Evaluator(
        request=request,
        base=found.base,
        axes=axes,
        asked=_find_prompts(request, found.base, records, pairs),
        pairs=pairs,
        missing=missing,
        access=access,
        bench=Bench(found.base, access),
        extras=extras,
        progress=progress,
    )


def _choose_axes(
    request: EvaluationRequest, records: Mapping[str, VersionRecord], missing: dict[str, str]
) -> dict[str, Axis]:
    catalog = load_axes()
    if request.axes:
        chosen = [catalog.find(name).axis for name in request.axes]
        return {axis.name: axis for axis in chosen}
    axes = {}
    for name in records:
        try:
            axes[name] = catalog.find(name).axis
        except AxisError:
            missing[name] = "the axis is not installed, so there is no metric and no data of it"
    return axes


def _find_prompts(
    request: EvaluationRequest,
    base: BaseModel,
    records: Mapping[str, VersionRecord],
    pairs: Mapping[str, HeldOut],
) -> list[Asked]:
    if request.prompts_file is not None:
        return read_prompts(request.prompts_file)[: request.prompts]
    worlds = {find_world(base.name, record) for record in records.values()} or {base.world}
    if len(worlds) == 1 and (world := worlds.pop()) is not None:
        return world_prompts(world, request.prompts, split=request.split, seed=request.seed)
    share = max(1, request.prompts // max(1, len(pairs)))
    found = [asked for held in pairs.values() for asked in prompts_of(held.pairs, share)]
    if not found:
        raise DataError(
            "There is nothing to ask: no held-out pairs could be read. Give prompts with "
            "--prompts-file FILE.jsonl, or pairs with --data AXIS=FILE.jsonl."
        )
    return found
