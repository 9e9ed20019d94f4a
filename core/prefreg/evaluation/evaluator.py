"""Measure compositions on one base: part by part, from the cache where it was done before."""

import importlib.metadata
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Axis
from prefreg.axes.base_world import ChoiceQuestion
from prefreg.axes.isolation import measure
from prefreg.axes.plugins import find_axis, load_axes
from prefreg.axes.row_axis import axis_of_rows
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.in_memory import Dials, VectorShelf, make_dials
from prefreg.composition.resolve import (
    Resolution,
    ResolvedTerm,
    base_spec,
    refuse_mixed_contrasts,
    resolve_on,
)
from prefreg.data.templates import check_options
from prefreg.data.tokens import TokenSet, tokenise_pairs
from prefreg.errors import AxisError, DataError, RegistryError
from prefreg.evaluation.candidates import (
    Candidate,
    EvaluationCache,
    digest,
    find_vectors,
    find_versions,
)
from prefreg.evaluation.divergence import Answers, PairScores, divergences
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.figures import (
    Column,
    Evaluation,
    Figures,
    Metric,
    answer_metrics,
    are_shares,
    as_column,
    measure_figures,
    pair_metrics,
    win_metrics,
)
from prefreg.evaluation.judge import Judge, Judgement, judge
from prefreg.evaluation.knowledge import (
    choice_metrics,
    find_questions,
    fingerprint_questions,
    run_tasks,
    score_choices,
    task_metrics,
)
from prefreg.evaluation.prompts import (
    Asked,
    HeldOut,
    find_heldout,
    find_prompts,
    fingerprint_prompts,
)
from prefreg.evaluation.rewards import RewardModel
from prefreg.models.generation import Answer, sample
from prefreg.models.loading import load_limits, load_model, load_tokenizer, on_gpu, quiet
from prefreg.models.log_probs import PairLogProbs, answer_log_probs, require_finite_scores
from prefreg.models.sampling import Sampling
from prefreg.progress import Progress, Steps, steps_of
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term
from prefreg.training.heldout import declared_axis
from prefreg.vectors.tensors import TensorSource

_JUDGE_KEY = "OPENAI_API_KEY"
_RECENT = 64
"""Parts that are kept in memory, as several figures are read of each."""

Found = TypeVar("Found")


@dataclass
class Evaluator:
    """One base with its dials, what it is asked, and everything that is read of its answers.

    Nothing is loaded before something has to be computed.
    """

    base: BaseModel
    access: Access
    request: EvaluationRequest = field(default_factory=EvaluationRequest)
    terms: tuple[ResolvedTerm, ...] = ()
    """The dials, in canonical order, with the coefficients that were asked for."""
    axes: dict[str, Axis] = field(default_factory=dict)
    """Those that are scored."""
    asked: list[Asked] = field(default_factory=list)
    pairs: dict[str, HeldOut] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Figures that cannot be had, with the reason."""
    questions: list[list[ChoiceQuestion]] = field(default_factory=list)
    rewards: dict[str, BaseModel] = field(default_factory=dict)
    endpoint: Judge | None = None
    """The judge that is asked which answer is better."""
    cache: EvaluationCache = field(default_factory=EvaluationCache)
    progress: Progress | None = None
    dtype: torch.dtype | Literal["auto"] = "auto"
    """In which the base is loaded; `auto` is its own."""
    coupled: bool = False
    """Whether all settings meet the same chance, so that their differences have less noise."""
    computed: int = 0
    """Parts that were not in the cache."""
    seconds: dict[str, float] = field(default_factory=lambda: {"loading": 0.0, "recomposing": 0.0})
    _loaded: dict[str, Any] = field(default_factory=dict)
    """The dials, and the key of the composition that they stand at: twins share them."""
    _recent: dict[Hashable, Any] = field(default_factory=dict)
    _tokens: dict[str, TokenSet] = field(default_factory=dict)
    _reward_models: dict[str, RewardModel] = field(default_factory=dict)

    @property
    def plain(self) -> Candidate:
        """The base alone."""
        return Candidate(self.base, ())

    @property
    def etas(self) -> list[float]:
        """The coefficients that were asked for."""
        return [term.eta for term in self.terms]

    def at(self, etas: Sequence[float]) -> Candidate:
        """Return the composition at these coefficients, one a dial."""
        pairs = zip(etas, self.terms, strict=True)
        return Candidate(self.base, tuple((eta, term.record) for eta, term in pairs if eta))

    def along(self, place: int, eta: float) -> Candidate:
        """Return the composition of one dial alone."""
        return self.at([eta if each == place else 0.0 for each in range(len(self.terms))])

    @property
    def composition(self) -> Candidate:
        """The composition that was asked for."""
        refuse_mixed_contrasts([term.record for term in self.terms if term.eta])
        return self.at(self.etas)

    def candidate(self, terms: Sequence[Term]) -> Candidate:
        """Find the versions of terms on this base."""
        if not terms:
            return self.plain
        with self.access.reading() as store:
            found = resolve_on(store, terms, self.base.fingerprint.weights, self.request.at)
        refuse_mixed_contrasts([term.record for term in found if term.eta])
        return Candidate(self.base, tuple((term.eta, term.record) for term in found if term.eta))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the base."""
        with quiet():
            return load_tokenizer(self.base)

    def asking(self, asked: Sequence[Asked]) -> "Evaluator":
        """Return a twin on the same loaded base that asks other prompts."""
        return replace(self, asked=list(asked), _recent={})

    @property
    def dials(self) -> Dials:
        """The dials of the loaded base."""
        if "dials" not in self._loaded:
            self._loaded["dials"] = self._load()
        found: Dials = self._loaded["dials"]
        return found

    def _load(self) -> Dials:
        started = time.perf_counter()
        with quiet():
            model = on_gpu(load_model(self.base, self.dtype))
        model.train(False)
        dials = make_dials(model, self.base)
        self.seconds["loading"] += time.perf_counter() - started
        return dials

    @cached_property
    def _shelf(self) -> VectorShelf:
        return VectorShelf(self.base, self.access)

    def model(self, candidate: Candidate) -> PreTrainedModel:
        """Return the model with the weights of a composition, made from the pristine base."""
        dials = self.dials
        if self._loaded.get("at") != candidate.key:
            vectors = self._shelf(candidate.terms)
            started = time.perf_counter()
            self.turn(vectors)
            self._loaded["at"] = candidate.key
            self.seconds["recomposing"] += time.perf_counter() - started
        return dials.model

    def turn(self, vectors: Sequence[tuple[float, TensorSource]]) -> PreTrainedModel:
        """Return the model with a sum of vectors, in canonical order, that need not be stored."""
        self._loaded["at"] = None
        self.dials.apply(vectors)
        return self.dials.model

    def sample(self, candidate: Candidate, stage: str | None = None) -> list[Answer]:
        """Draw an answer of a composition to every prompt."""
        return sample(
            self.model(candidate),
            self.tokenizer,
            [each.prompt for each in self.asked],
            Sampling(**self.request.sampling()),
            told=[each.told for each in self.asked],
            coupled=self.coupled,
            progress=self._steps(stage),
        )

    @property
    def drawing(self) -> dict[str, Any]:
        """Return the protocol of the answers: what decides them beside the weights."""
        coupled = {"coupled": True} if self.coupled else {}
        asked = fingerprint_prompts(self.asked)
        return {"prompts": asked, **self.request.sampling(), **coupled}

    def drawn(self, candidate: Candidate) -> list[Answer]:
        """Draw an answer of a composition to every prompt, or return those just drawn."""
        stage = f"answers of {candidate.formula}"
        key = (candidate.key, "drawn", digest(self.drawing))
        return self._remember(key, lambda: self.sample(candidate, stage))

    def log_probs(
        self, axis: str, model: PreTrainedModel, stage: str | None = None
    ) -> PairLogProbs:
        """Score both answers of the held-out pairs of an axis with a model, teacher-forced."""
        pairs = self.tokens(axis).pairs
        scores = answer_log_probs(model, pairs, progress=self._steps(stage))
        return require_finite_scores(model, scores)

    def tokens(self, axis: str) -> TokenSet:
        """Write the held-out pairs of an axis as tokens."""
        if axis not in self._tokens:
            held = self.pairs[axis]
            context, vocabulary = load_limits(self.base)
            self._tokens[axis] = tokenise_pairs(
                held.pairs,
                self.tokenizer,
                max_length=held.max_length or context or 1 << 30,
                policy="truncate" if held.max_length else "drop",
                vocabulary=vocabulary,
            )
        return self._tokens[axis]

    def answers(self, candidate: Candidate) -> Answers:
        """Sample an answer to every prompt, with the KL of each from the base."""

        def compute() -> dict[str, Any]:
            sampled = self.drawn(candidate)
            nats = [0.0] * len(sampled)
            if candidate.versions:
                nats = divergences(self.model(candidate), self.dials.pristine, sampled)
            return {
                "texts": [answer.text for answer in sampled],
                "tokens": [len(answer.ids) for answer in sampled],
                "nats": nats,
                "ended": [answer.ended for answer in sampled],
            }

        return Answers(**self.part(candidate, "answers", self.drawing, compute))

    def judged(self, candidate: Candidate) -> tuple[Answers, list[Judgement]]:
        """Return the answers of a composition, and what each of them is."""

        def compute() -> tuple[Answers, list[Judgement]]:
            answers = self.answers(candidate)
            return answers, [judge(*each) for each in zip(self.asked, answers.texts, strict=True)]

        return self._remember((candidate.key, "judged"), compute)

    def pair_scores(self, candidate: Candidate, axis: str) -> PairScores:
        """Score both answers of the held-out pairs of an axis, teacher-forced."""
        held = self.pairs[axis]

        def compute() -> dict[str, Any]:
            stage = f"pairs of {candidate.formula}"
            scored = self.log_probs(axis, self.model(candidate), stage)
            names = ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
            columns = {name: getattr(scored, name).tolist() for name in names}
            return {"kept": list(self.tokens(axis).kept), **columns}

        protocol = {"pairs": held.fingerprint, "count": len(held.pairs)}
        return PairScores(**self.part(candidate, f"pairs-{axis}", protocol, compute))

    def margins(self, candidate: Candidate, axis: str) -> Column:
        """Return log p(chosen) − log p(rejected) of the held-out pairs of an axis."""
        found = self.pair_scores(candidate, axis)
        margins: Column = np.array(found.chosen) - np.array(found.rejected)
        return margins

    def margin_groups(self, axis: str) -> list[str]:
        """Return the groups of the pairs whose margins these are."""
        groups = self.require_pairs(axis).groups
        return [groups[place] for place in self.pair_scores(self.plain, axis).kept]

    def choices(self, candidate: Candidate, questions: Sequence[ChoiceQuestion]) -> dict[str, Any]:
        """Return the log-likelihood and the tokens of every choice of a composition."""

        def compute() -> dict[str, Any]:
            return score_choices(self.model(candidate), self.tokenizer, questions)

        protocol = {"questions": fingerprint_questions(questions)}
        return self.part(candidate, "choices", protocol, compute)

    def tasks(self, candidate: Candidate) -> dict[str, Any]:
        """Return what each document of the request's tasks scores, by task and metric."""
        request = self.request

        def compute() -> dict[str, Any]:
            return run_tasks(
                self.model(candidate),
                self.tokenizer,
                request.tasks,
                limit=request.task_limit,
                folder=request.task_path,
            )

        protocol = {
            "tasks": list(request.tasks),
            "limit": request.task_limit,
            "folder": str(request.task_path),
            "lm-eval": importlib.metadata.version("lm_eval"),
        }
        return self.part(candidate, "tasks", protocol, compute)

    def part(
        self,
        candidate: Candidate,
        name: str,
        protocol: Mapping[str, Any],
        compute: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """Return a part from the cache, or compute and keep it."""

        def find() -> dict[str, Any]:
            kept = self.cache.read(candidate.key, name, protocol)
            if isinstance(kept, dict):
                return kept
            self.computed += 1
            found = compute()
            self.cache.write(candidate.key, name, protocol, found)
            return found

        return self._remember((candidate.key, name, digest(protocol)), find)

    def _remember(self, key: Hashable, find: Callable[[], Found]) -> Found:
        found: Found = self._recent.pop(key) if key in self._recent else find()
        self._recent[key] = found
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return found

    def _steps(self, stage: str | None) -> Steps | None:
        return None if stage is None else steps_of(self.progress, stage)

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Measure everything of a composition and the base, and compare them."""
        before = self.computed
        figures = measure_figures(self.metrics(), self.plain, candidate, self.missing)
        return Evaluation(
            candidate=candidate,
            figures=figures,
            prompts=len(self.asked),
            groups=len({each.group for each in self.asked}),
            request=self.request,
            sources={name: held.source for name, held in self.pairs.items()},
            cached=self.computed == before,
        )

    def figures(self, candidate: Candidate, *metrics: Metric) -> Figures:
        """Measure some figures of a composition, beside those of the base."""
        return measure_figures(metrics, self.plain, candidate)

    def metrics(self) -> Iterator[Metric]:
        """Yield everything that was asked for."""
        for name, axis in self.axes.items():
            if axis.metric is not None:
                yield self._metric(name)
            yield from self.pair_metrics(name)
        yield from self.answer_metrics().values()
        for questions in self.questions:
            scored = partial(self.choices, questions=questions)
            yield from choice_metrics(questions, scored, prefix="retention.", unnormalised=True)
        if self.request.tasks:
            yield from task_metrics(self.tasks, self.plain, prefix="task.")
        yield from self.reward_metrics()
        if self.endpoint is not None:
            yield from win_metrics(self.groups, partial(self._wins, self.endpoint))

    @property
    def groups(self) -> list[str]:
        """The group of each prompt."""
        return [each.group for each in self.asked]

    def describe_prompts(self) -> str:
        """Say how many prompts are asked, in how many groups."""
        return f"{len(self.asked)} prompts in {len(set(self.groups))} groups"

    def answer_metrics(self) -> dict[str, Metric]:
        """Return what every evaluation reads of answers, by name."""
        return {each.name: each for each in answer_metrics(self.asked, self.judged)}

    def effect(self, axis: str) -> Metric | None:
        """Return what an axis moves: its own metric, or else the margin of its pairs."""
        own = self.own_metric(axis)
        return own or next(self.pair_metrics(axis), None)

    def own_metric(self, axis: str) -> Metric | None:
        """Return the metric of an axis, if it has one that applies to answers of the base."""
        if axis not in self.axes or self.axes[axis].metric is None:
            return None
        metric = self._metric(axis)
        scores = metric.read(self.plain)
        if not np.isfinite(scores).any():
            return None
        unit = "share of answers" if are_shares(scores) else "mean over answers"
        return replace(metric, unit=unit)

    def require_pairs(self, axis: str) -> HeldOut:
        """Return the held-out pairs of an axis, or say why there are none."""
        if axis not in self.pairs:
            raise DataError(self.missing.get(f"{axis}.margin", "it has no held-out pairs"))
        return self.pairs[axis]

    def reward_metrics(self) -> Iterator[Metric]:
        """Yield the score of each reward model."""
        for name in self.rewards:
            scores = partial(self._reward, name)
            yield Metric(f"reward.{Path(name).name}", "score", self.groups, scores)

    def _metric(self, axis: str) -> Metric:
        def scores(candidate: Candidate) -> Column:
            texts = self.answers(candidate).texts
            return as_column(
                measure(self.axes[axis], asked.text, text)
                for asked, text in zip(self.asked, texts, strict=True)
            )

        def words(candidate: Candidate) -> Column:
            return as_column(each.words for each in self.judged(candidate)[1])

        missing = "its metric applies to none of the answers"
        return Metric(axis, "", self.groups, scores, words=words, missing=missing)

    def pair_metrics(self, axis: str) -> Iterator[Metric]:
        """Yield what is read of the held-out pairs of an axis, if there are any."""
        if axis in self.pairs:
            yield from self._pair_metrics(axis)

    def _pair_metrics(self, axis: str) -> Iterator[Metric]:
        base = self.pair_scores(self.plain, axis)
        scores = partial(self.pair_scores, axis=axis)
        return pair_metrics(axis, self.pairs[axis].groups, base, scores)

    def _reward(self, name: str, candidate: Candidate) -> Column:
        found = self.rewards[name]
        prompts = [each.prompt for each in self.asked]
        texts = self.answers(candidate).texts
        protocol = {
            "model": asdict(found.fingerprint),
            "answers": digest([prompts, texts]),
        }

        def compute() -> dict[str, Any]:
            if name not in self._reward_models:
                self._reward_models[name] = RewardModel(found)
            return {"scores": self._reward_models[name].score(prompts, texts)}

        return as_column(self.part(candidate, "reward", protocol, compute)["scores"])

    def _wins(self, endpoint: Judge, candidate: Candidate) -> Column:
        prompts = [each.text for each in self.asked]
        (before, judged_before), (after, judged_after) = map(self.judged, (self.plain, candidate))
        protocol = {
            "url": endpoint.url,
            "model": endpoint.model,
            "answers": digest([prompts, before.texts, after.texts]),
        }

        def compute() -> dict[str, Any]:
            steps = self._steps("judge")
            return {"wins": endpoint.compare(prompts, before.texts, after.texts, steps)}

        wins = self.part(candidate, "judge", protocol, compute)["wins"]
        rows = zip(wins, judged_before, judged_after, strict=True)
        return np.array([[won, one.words, other.words] for won, one, other in rows], float)


def open_evaluator(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
    *,
    pairs: Mapping[str, HeldOut] | None = None,
) -> Evaluator:
    """Find everything that evaluating these terms, at any coefficients, needs.

    `pairs` are the held-out pairs of axes; else they are those that the request names.
    """
    # What was asked for is checked before anything is measured.
    questions = find_questions(request)
    rewards = {name: resolve_base(name) for name in request.reward_models}
    endpoint = None
    if request.judge is not None:
        key = os.environ.get(_JUDGE_KEY)
        endpoint = Judge(request.judge, request.judge_model, key, request.judge_timeout)
    found = find_versions(access, terms, request.base, request.at)
    if options := request.asked_options:
        with quiet():
            check_options(load_tokenizer(found.base), options)
    records = {term.record.axis: term.record for term in found.terms}
    missing: dict[str, str] = {}
    axes, versions = _choose_axes(access, request, found, missing)
    held = pairs or find_heldout(axes, versions, found.base.name, request, missing)
    return Evaluator(
        base=found.base,
        access=access,
        request=request,
        terms=found.terms,
        axes=axes,
        asked=find_prompts(request, found.base, records, held, missing),
        pairs=dict(held),
        missing=missing,
        questions=questions,
        rewards=rewards,
        endpoint=endpoint,
        progress=progress,
    )


def open_dials(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Evaluator:
    """Find the vectors of terms, or the newest of every axis, and what measures them."""
    with access.reading() as store:
        base, found = find_vectors(store, terms, request.base, request.at)
    pinned = [Term(term.record.axis, term.eta, str(term.record.number)) for term in found]
    request = replace(request, base=request.base or base_spec(base))
    return open_evaluator(access, pinned, request, progress)


def _choose_axes(
    access: Access, request: EvaluationRequest, found: Resolution, missing: dict[str, str]
) -> tuple[dict[str, Axis], dict[str, VersionRecord]]:
    """Find the axes that are scored, those named or else of the terms, and versions of them."""
    catalog = load_axes()
    given = {text.partition("=")[0] for text in request.data}
    records = [term.record for term in found.terms]

    def version_of(name: str) -> VersionRecord | None:
        for record in records:
            if name in (record.axis, *record.axis_aliases):
                return record
        try:
            with access.reading() as store:
                return store.resolve(name, base=found.base.fingerprint.weights, at=request.at)
        except RegistryError:
            return None

    axes: dict[str, Axis] = {}
    versions: dict[str, VersionRecord] = {}
    for name in request.axes or [record.axis for record in records]:
        if any(name in (axis.name, *axis.aliases) for axis in axes.values()):
            continue
        record = version_of(name)
        if name in catalog.names or (record is None and name not in given):
            axis = find_axis(name).installed.axis
            record = record or version_of(axis.name)
        else:
            # It is measured all the same, on pairs that its run held out or that are given.
            aliases = () if record is None else record.axis_aliases
            axis = axis_of_rows(name if record is None else record.axis, aliases)
            with suppress(AxisError):  # a file that it names is gone, and so its metric
                declared = record and declared_axis(record)
                axis = replace(axis, metric=declared.metric) if declared else axis
        axes[axis.name] = axis
        if record is not None:
            versions[axis.name] = record
        if axis.metric is None:
            installed = axis.name in catalog.names
            missing[axis.name] = (
                "the axis brings no metric"
                if installed
                else "the axis is not installed, so there is no metric of it"
            )
    return axes, versions
