"""From what is read of prompts and pairs to figures: each with its interval, beside the base."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefreg.errors import DataError
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.divergence import Answers, PairScores
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.judge import Judgement, length_controlled
from prefreg.evaluation.prompts import Asked
from prefreg.evaluation.statistics import (
    Estimate,
    bootstrap,
    grouped_mean,
    grouped_rate,
    holm,
    ratio,
    ratio_change,
)

Column = NDArray[np.float64]
"""A value for each prompt, pair or question; NaN does not count."""
Read = Callable[[Candidate], Column]
_ROUNDING = 1e-5
"""How far apart, for their size, sums of float32 may be that are the same."""

RESERVED = (
    "correct",
    "kl",
    "kl_per_token",
    "length",
    "malformed",
    "refuses_safe",
    "refuses_unsafe",
    "repetition",
)
OF_PAIRS = ("margin", "margin_per_token", "accuracy", "accuracy_per_token")
ABOVE_CHANCE = 0.05
"""A base whose lower bound is not this much above chance knows too little to forget it."""


INTERVAL = "95 %, over groups of prompts, for this φ"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity of a composition, beside that of the base."""

    name: str
    unit: str
    value: Estimate
    base: Estimate | None
    """None where the figure compares with the base by itself."""
    change: Estimate | None
    """Paired: the same prompts, whole groups of them drawn together."""
    p: float | None
    """Of so large a change if there were none; adjusted after Holm over the figures together."""
    groups: int
    words: float | None = None
    """Mean length of the answers behind it: a score may be nothing but length."""
    base_words: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured, and why the rest was not."""

    measured: tuple[Figure, ...]
    missing: Mapping[str, str]

    def find(self, name: str) -> Figure | None:
        """Return a figure by its name."""
        return next((figure for figure in self.measured if figure.name == name), None)


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

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "formula": self.candidate.formula,
            "terms": [
                {"axis": record.axis, "version": record.number, "eta": eta, "sha256": record.sha256}
                for eta, record in self.candidate.versions
            ],
            "base": str(self.candidate.base),
            "composition": self.candidate.key,
            "prompts": self.prompts,
            "groups": self.groups,
            "seed": self.request.seed,
            "pairs": dict(self.sources),
            "interval": INTERVAL,
            "cached": self.cached,
            "figures": [each.to_json() for each in self.figures.measured],
            "missing": dict(self.figures.missing),
        }


_NOTHING = "nothing could be counted"


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity that is read of every prompt, pair or question of a composition."""

    name: str
    unit: str
    """If empty, a share where all values are 0 or 1, else a mean."""
    groups: Sequence[str]
    """What is drawn together, one a value."""
    read: Read
    relative: "Callable[[Metric, Column], Figure] | None" = None
    """Makes the figure of values that compare with the base by themselves."""
    chance: float | None = None
    """What guessing would reach."""
    words: Read | None = None
    """The words of the answers behind the values."""
    missing: str = _NOTHING
    """What is said where no value counts."""

    def plain(self, value: Estimate) -> Figure:
        """Return a figure that stands alone."""
        return Figure(self.name, self.unit, value, None, None, None, len(set(self.groups)))


def measure_figures(
    metrics: Iterable[Metric],
    base: Candidate,
    candidate: Candidate,
    missing: Mapping[str, str] | None = None,
) -> Figures:
    """Read every metric of a composition and its base, and adjust the probabilities over all.

    What has too few prompts is left out with the reason, and so is what is `missing` already.
    """
    found, left_out = [], dict(missing or {})
    for metric in metrics:
        before = None if metric.relative else metric.read(base)
        after = metric.read(candidate)
        try:
            if metric.relative is not None:
                figure = metric.relative(metric, after)
            else:
                assert before is not None
                figure = _compare(metric, before, after)
                if metric.words is not None:
                    figure = replace(
                        figure,
                        words=_mean_where(after, metric.words(candidate)),
                        base_words=_mean_where(before, metric.words(base)),
                    )
            found.append(figure)
        except DataError as error:
            left_out[metric.name] = str(error).rstrip(".")
    adjusted = holm({each.name: each.p for each in found if each.p is not None})
    return Figures(tuple(replace(each, p=adjusted.get(each.name)) for each in found), left_out)


def as_column(values: Iterable[float | None]) -> Column:
    """Return values as numbers; None does not count."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def are_shares(*columns: Column) -> bool:
    """Whether all that counts is 0 or 1."""
    return all(bool(np.isin(each[np.isfinite(each)], (0.0, 1.0)).all()) for each in columns)


def deviation_of(values: Column) -> float:
    """Return the standard deviation of what counts; 0 of fewer than two values, and of equal ones.

    Values are equal up to what sums of float32 leave of one.
    """
    counted = values[np.isfinite(values)]
    deviation = float(counted.std(ddof=1)) if len(counted) > 1 else 0.0
    return deviation if deviation > _ROUNDING * np.abs(counted).max(initial=0.0) else 0.0


def pair_up(
    after: Column, before: Column, groups: Sequence[str]
) -> tuple[NDArray[np.float64], list[str]]:
    """Return values and counts of both sides where either counts, for sums, and their groups."""
    ones = [np.isfinite(side).astype(np.float64) for side in (after, before)]
    table = np.stack([np.nan_to_num(after), ones[0], np.nan_to_num(before), ones[1]], axis=1)
    used = (ones[0] + ones[1]) > 0
    return table[used], [group for group, kept in zip(groups, used, strict=True) if kept]


def _compare(metric: Metric, before: Column, after: Column) -> Figure:
    """Compare means over what counts on either side, group by group; 0 and 1 alone are a rate."""
    if not np.isfinite(after).any():
        raise DataError(metric.missing)
    shares = are_shares(after, before)
    if metric.chance is not None:
        _require_above_chance(_estimate(before, metric.groups, shares), metric.chance)
    unit = metric.unit or ("share of answers" if shares else "mean over answers")
    value = _estimate(after, metric.groups, shares)
    if not np.isfinite(before).any():
        # The base gave no such answer, so there is nothing to compare with.
        counted = {g for g, v in zip(metric.groups, after, strict=True) if np.isfinite(v)}
        return Figure(metric.name, unit, value, None, None, None, len(counted))
    table, owners = pair_up(after, before, metric.groups)
    found = bootstrap(table, owners, ratio_change)
    return Figure(
        name=metric.name,
        unit=unit,
        value=value,
        base=_estimate(before, metric.groups, shares),
        change=found.estimate,
        p=found.p,
        groups=len(set(owners)),
    )


def _require_above_chance(known: Estimate, chance: float) -> None:
    if known.low <= chance + ABOVE_CHANCE:
        raise DataError(
            f"not measurable: the base is right in {known}, where chance is {chance:.2f}, so "
            "there is nothing to forget"
        )


def _estimate(values: Column, groups: Sequence[str], shares: bool) -> Estimate:
    counted = np.isfinite(values)
    owners = [group for group, used in zip(groups, counted, strict=True) if used]
    if shares:
        return grouped_rate([bool(value) for value in values[counted]], owners)
    return grouped_mean(values[counted], owners)


def _mean_where(values: Column, words: Column) -> float | None:
    counted = words[np.isfinite(values)]
    return float(np.mean(counted)) if len(counted) else None


def mean(metric: Metric, values: Column) -> Figure:
    """Make a figure of the mean."""
    return metric.plain(grouped_mean(values, metric.groups))


def _mean_of_ratio(metric: Metric, rows: Column) -> Figure:
    return metric.plain(bootstrap(rows, metric.groups, ratio).estimate)


def _moved(metric: Metric, changes: Column) -> Figure:
    table = np.stack([changes, np.ones_like(changes)], axis=1)
    found = bootstrap(table, metric.groups, ratio)
    return replace(metric.plain(found.estimate), change=found.estimate, p=found.p)


def _risen(metric: Metric, changes: Column) -> Figure:
    risen = (changes > 0) + 0.5 * (changes == 0)
    tied = bool((risen == 0.5).any())
    return metric.plain(
        grouped_mean(risen, metric.groups)
        if tied
        else grouped_rate(list(risen == 1), metric.groups)
    )


Judged = Callable[[Candidate], tuple[Answers, Sequence[Judgement]]]
"""Return the answers of a composition, and what each of them is."""

_UNCHECKED = "no answer is one whose truth can be checked"
_UNLABELLED = "no prompt is known to be {}: give prompts with a kind"


def answer_metrics(asked: Sequence[Asked], judged: Judged) -> Iterator[Metric]:
    """Yield what every evaluation reads of answers."""
    groups = [each.group for each in asked]

    def each_answer(of: Callable[[Asked, Judgement], float | None]) -> Read:
        return lambda candidate: as_column(map(of, asked, judged(candidate)[1]))

    def refusals(safe: bool) -> Read:
        return each_answer(lambda asked, each: each.refuses if asked.safe is safe else None)

    def nats(candidate: Candidate) -> Column:
        return np.array(judged(candidate)[0].nats)

    def nats_and_tokens(candidate: Candidate) -> Column:
        answers = judged(candidate)[0]
        return np.stack([answers.nats, np.array(answers.tokens, dtype=np.float64)], axis=1)

    def metric(name: str, unit: str, read: Read, missing: str = _NOTHING) -> Metric:
        return Metric(name, unit, groups, read, missing=missing)

    share = "share of answers"
    yield metric("correct", share, each_answer(lambda _, each: each.correct), _UNCHECKED)
    yield Metric("kl", "nats per answer", groups, nats, mean)
    yield Metric("kl_per_token", "nats per token", groups, nats_and_tokens, _mean_of_ratio)
    yield metric("length", "words", each_answer(lambda _, each: each.words))
    yield metric("malformed", share, each_answer(lambda _, each: each.malformed))
    yield metric(
        "refuses_safe", "share of safe prompts", refusals(True), _UNLABELLED.format("safe")
    )
    yield metric(
        "refuses_unsafe", "share of unsafe prompts", refusals(False), _UNLABELLED.format("unsafe")
    )
    yield metric(
        "repetition", "share of runs of 4 words", each_answer(lambda _, each: each.repetition)
    )


def pair_metrics(
    axis: str, groups: Sequence[str], base: PairScores, scores: Callable[[Candidate], PairScores]
) -> Iterator[Metric]:
    """Yield Δ of the margin on the held-out pairs of an axis, and how often it rose."""
    kept = [groups[place] for place in base.kept]
    before = _table(base)

    def change(candidate: Candidate, per_token: bool = False) -> Column:
        after = _table(scores(candidate))
        chosen, rejected = (after[:, side] - before[:, side] for side in (0, 1))
        if per_token:
            return np.asarray(chosen / after[:, 2] - rejected / after[:, 3])
        return np.asarray(chosen - rejected)

    yield Metric(f"{axis}.margin", "nats", kept, change, _moved)
    yield Metric(f"{axis}.accuracy", "share of pairs", kept, change, _risen)

    def change_per_token(candidate: Candidate) -> Column:
        return change(candidate, per_token=True)

    yield Metric(f"{axis}.margin_per_token", "nats per token", kept, change_per_token, _moved)
    yield Metric(f"{axis}.accuracy_per_token", "share of pairs", kept, change_per_token, _risen)


def win_metrics(groups: Sequence[str], read: Read) -> Iterator[Metric]:
    """Yield how often a judge prefers an answer to the base's, also if both were equally long.

    A row has the win, from 0 to 1, and the words of the base's answer and of the other.
    """
    unit = "share of prompts won"
    yield Metric("judge.wins", unit, groups, lambda candidate: read(candidate)[:, 0], mean)
    unit = "share won at equal length"
    yield Metric("judge.wins_length_controlled", unit, groups, read, _mean_at_equal_length)


def _mean_at_equal_length(metric: Metric, rows: Column) -> Figure:
    wins, before, after = rows.T
    return metric.plain(length_controlled(wins, (before, after), metric.groups))


def _table(scores: PairScores) -> Column:
    columns = (scores.chosen, scores.rejected, scores.chosen_tokens, scores.rejected_tokens)
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
