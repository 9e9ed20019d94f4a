"""Measure compositions on one base: part by part, from the cache where it was done before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefreg.axes import Axis
from prefreg.checkpoints import BaseModel
from prefreg.containment import measure
from prefreg.errors import AxisError, DataError
from prefreg.evaluation.cache import EvaluationCache
from prefreg.evaluation.figures import Figures, Sheet, add_metric, add_pairs, add_reserved
from prefreg.evaluation.judgement import Judgement, judge
from prefreg.evaluation.measured import Answers, PairScores
from prefreg.evaluation.prompts import (
    Asked,
    fingerprint_prompts,
    pocket_prompts,
    prompts_of,
    read_prompts,
)
from prefreg.flows.access import Access
from prefreg.flows.measuring.candidates import Bench, Candidate, find_versions
from prefreg.flows.measuring.extras import Extras
from prefreg.flows.measuring.pairs import HeldOut, check_data_options, find_pairs, on_pocket
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.flows.resolve import refuse_mixed_contrasts, resolve_on
from prefreg.plugins import load_axes
from prefreg.registry import VersionRecord
from prefreg.terms import Term

Progress = Callable[[str, int, int], None]


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
        """Apply an axis's metric to answers.

        Raises:
            DataError: It failed on one, or returned no finite number; the message says on which.
        """
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
        from prefreg.evaluation.sampling import Sampling, sample

        model = self.bench.model(candidate)
        sampled = sample(
            model,
            self.bench.tokenizer,
            [each.prompt for each in self.asked],
            Sampling(**self.request.sampling()),
            progress=self.step(f"answers of {candidate.formula}"),
        )
        nats = [0.0] * len(sampled)
        if candidate.versions:
            nats = divergences(model, self.bench.dials.pristine, sampled)
        return Answers(
            texts=[answer.text for answer in sampled],
            tokens=[len(answer.ids) for answer in sampled],
            nats=nats,
            ended=[answer.ended for answer in sampled],
        ).as_dict()

    def _score(self, candidate: Candidate, held: HeldOut) -> dict[str, Any]:
        from prefreg.data.tokens import tokenize_pairs
        from prefreg.scoring.log_probs import answer_log_probs
        from prefreg.training.loading import load_limits

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
            progress=self.step(f"pairs of {candidate.formula}"),
        )
        return PairScores(
            kept=list(tokens.kept),
            chosen=scored.chosen.tolist(),
            rejected=scored.rejected.tolist(),
            chosen_tokens=scored.chosen_tokens.tolist(),
            rejected_tokens=scored.rejected_tokens.tolist(),
        ).as_dict()

    def step(self, stage: str) -> Callable[[int, int], None] | None:
        """Return what reports the steps of a stage; None where nobody looks."""
        if self.progress is None:
            return None
        progress = self.progress
        return lambda done, total: progress(stage, done, total)


def open_evaluator(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Evaluator:
    """Find everything that evaluating these terms, at any coefficients, needs.

    Raises:
        AxisError: An axis of `axes` is not installed.
        RegistryError: A term has no version on the base.
        UsageError: An option is malformed or names what is not scored.
        DataError: A file cannot be read, or there is nothing to ask.
    """
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
    if on_pocket(base.name, None) or (
        records and all(on_pocket(base.name, record) for record in records.values())
    ):
        return pocket_prompts(request.prompts, split=request.split, seed=request.seed)
    share = max(1, request.prompts // max(1, len(pairs)))
    found = [asked for held in pairs.values() for asked in prompts_of(held.pairs, share)]
    if not found:
        raise DataError(
            "There is nothing to ask: no held-out pairs could be read. Give prompts with "
            "--prompts-file FILE.jsonl, or pairs with --data AXIS=FILE.jsonl."
        )
    return found
