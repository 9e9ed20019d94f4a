"""Figures on a scale without ends, with their errors and their slopes, to choose settings by.

A share is read in log-odds, a count or a divergence as a logarithm, anything else in standard
deviations of the base: there an effect is about linear in η, and a bound can be met by any margin.

Slopes come from answers that are drawn anyway (the score function): with s_j = ∂ log π_η(answer) /
∂η_j, the slope of a mean is Cov(figure, s_j), so that J costs two teacher-forced passes a dial
and no further answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from prefreg.errors import DataError, did_you_mean
from prefreg.evaluation.calibration import Unit, unit_of
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.dial_effects import STEP
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.figures import Column, Metric, deviation_of
from prefreg.evaluation.statistics import group_sums, t95
from prefreg.models.generation import Answer
from prefreg.models.log_probs import TOKENS
from prefreg.models.padded import length, score_texts, split_by_length
from prefreg.models.threads import suited_threads

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From sums over prompts (the last dimension: one a column) to a figure."""

_NATS = 1e-3
"""Of KL per answer, below which a logarithm would follow noise."""
_ROWS = 64
_FEWEST_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure at one setting, on its scale without ends."""

    level: float
    error: float
    """Standard error over groups of prompts."""
    value: float
    """In the figure's own unit."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A change from the base in calibrated units, over the same prompts and the same chance."""

    value: float
    error: float
    groups: int

    @property
    def half(self) -> float:
        """Half of the 90 % interval."""
        # Student's t by the ratio of the normal quantiles: exact in the limit, near from 20 on.
        return self.error * 1.6449 * t95(max(1, self.groups - 1)) / 1.95996

    @property
    def low(self) -> float:
        """The lower end of the 90 % interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """The upper end of the 90 % interval."""
        return self.value + self.half

    def to_json(self) -> dict[str, float]:
        """Return it in a form that JSON can hold."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Gauge:
    """A figure of compositions, read per prompt or pair, and the scale it is compared on."""

    evaluator: Evaluator
    metric: Metric
    unit: Unit
    deviation: float = 1.0
    """Of the base, where the unit is that."""

    @property
    def name(self) -> str:
        """The figure."""
        return self.metric.name

    def rows(self, candidate: Candidate) -> Array:
        """Return what is summed, a row a prompt: the value and whether it counts."""
        values = self.metric.read(candidate)
        if values.ndim == 2:  # a ratio of sums by itself
            return values
        counted = np.isfinite(values)
        return np.stack([np.where(counted, values, 0.0), counted.astype(np.float64)], axis=1)

    def level_of(self, value: float) -> float:
        """Put a value of the figure's own unit on the scale."""
        if self.unit is Unit.LOG_ODDS:
            value = min(max(value, 1e-4), 1 - 1e-4)
            return log(value / (1 - value))
        if self.unit in (Unit.LOG, Unit.NATS):
            return log(max(value, 0.0) + self._floor)
        return value / self.deviation

    def value_of(self, level: float) -> float:
        """Return from the scale to the figure's own unit."""
        if self.unit is Unit.LOG_ODDS:
            return 1 / (1 + exp(-min(max(level, -700), 700)))
        if self.unit in (Unit.LOG, Unit.NATS):
            return max(0.0, exp(min(level, 700)) - self._floor)
        return level * self.deviation

    @property
    def _floor(self) -> float:
        return _NATS if self.unit is Unit.NATS else 0.0

    def level(self, sums: Array) -> Array:
        """Return the level of sums; the last dimension has the sum and the count."""
        total, count = sums[..., 0], sums[..., 1]
        if self.unit is Unit.LOG_ODDS:
            found = np.log((total + 0.5) / (count - total + 0.5))
        elif self.unit in (Unit.LOG, Unit.NATS):
            # Half a unit more, as for a count that may be 0 of all.
            half = 0.0 if self.unit is Unit.NATS else 0.5
            found = np.log((total + half) / count + self._floor)
        else:
            found = total / count / self.deviation
        return np.asarray(found)

    def read(self, candidate: Candidate) -> Reading:
        """Measure a composition.

        Raises:
            DataError: The figure has too little to count there.
        """
        sums = group_sums(self.rows(candidate), self.metric.groups)
        level, error = jackknife(sums, self.level, self.name)
        total = sums.sum(0)
        return Reading(level, error, float(total[0] / total[1]))

    def effect(self, candidate: Candidate, base: Candidate) -> Effect:
        """Measure the change from the base, paired by prompt."""
        table = np.concatenate([self.rows(candidate), self.rows(base)], axis=1)
        sums = group_sums(table, self.metric.groups)
        value, error = jackknife(
            sums, lambda s: self.level(s[..., :2]) - self.level(s[..., 2:]), self.name
        )
        return Effect(value, error, len(sums))

    def slopes(self, candidate: Candidate, scores: Array | None) -> Array:
        """Return what each group adds to the slopes of the level: groups × dials.

        Without `scores`, ∂ log π of every answer, the figure is one of pairs, and is read at both
        sides of each dial.
        """
        if scores is None:
            return self._differences(candidate)
        rows = self.rows(candidate)
        total = rows.sum(0)
        mean = total[0] / total[1]
        # A ratio of sums has this influence of each row; its mean is 0, so the mean score drops.
        influence = (rows[:, 0] - mean * rows[:, 1]) / total[1] * self._steepness(mean, total[1])
        return group_sums(influence[:, None] * (scores - scores.mean(0)), self.metric.groups)

    def _steepness(self, mean: float, count: float) -> float:
        """Return the derivative of the level by the mean."""
        if self.unit is Unit.LOG_ODDS:
            share = (mean * count + 0.5) / (count + 1)
            return float(1 / (share * (1 - share)))
        if self.unit in (Unit.LOG, Unit.NATS):
            return float(1 / (mean + self._floor + 1e-12))
        return 1 / self.deviation

    def _differences(self, candidate: Candidate) -> Array:
        columns = []
        for up, down in around(self.evaluator, candidate):
            change = (self.rows(up)[:, 0] - self.rows(down)[:, 0]) / (2 * STEP)
            columns.append(change / len(change) / self.deviation)
        return group_sums(np.stack(columns, axis=1), self.metric.groups)

    def changes(self, candidate: Candidate, base: Candidate) -> Column:
        """Return the change of each prompt that counts on both sides; NaN of the others."""
        after, before = self.rows(candidate), self.rows(base)
        both = (after[:, 1] > 0) & (before[:, 1] > 0)
        return np.where(both, after[:, 0] - before[:, 0], np.nan)


def jackknife(sums: Array, statistic: Statistic, name: str) -> tuple[float, float]:
    """Return a statistic of the sums of groups, and its standard error by leaving one out.

    Raises:
        DataError: There are too few groups with something to count.
    """
    # A group without anything to count changes nothing and is no observation.
    sums = sums[(sums[:, 1::2] > 0).any(1)]
    groups = len(sums)
    if groups < _FEWEST_GROUPS:
        raise DataError(
            f"{name} counts in {groups} groups of prompts, of which {_FEWEST_GROUPS} are needed: "
            "ask for more prompts."
        )
    total = sums.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(total))
        left = statistic(total - sums)
    left = left[np.isfinite(left)]
    error = sqrt((groups - 1) / groups * float(((left - left.mean()) ** 2).sum()))
    return value, error


def around(evaluator: Evaluator, candidate: Candidate) -> list[tuple[Candidate, Candidate]]:
    """Return the settings at both sides of one, along each dial."""
    etas = etas_of(evaluator, candidate)
    return [
        (evaluator.at((etas + STEP * unit).tolist()), evaluator.at((etas - STEP * unit).tolist()))
        for unit in np.eye(len(etas))
    ]


def etas_of(evaluator: Evaluator, candidate: Candidate) -> Array:
    """Return the coefficients of a setting, one a dial."""
    known = {record.sha256: eta for eta, record in candidate.versions}
    return np.array([known.get(term.record.sha256, 0.0) for term in evaluator.terms])


def answer_scores(evaluator: Evaluator, candidate: Candidate) -> Array:
    """Return ∂ log π_η(answer) / ∂η_j of the answers of a setting: answers × dials, in nats."""

    def compute() -> dict[str, list[list[float]]]:
        answers = evaluator.drawn(candidate)
        columns = []
        for up, down in around(evaluator, candidate):
            sides = [_log_probs(evaluator, side, answers) for side in (up, down)]
            columns.append((sides[0] - sides[1]) / (2 * STEP))
        return {"scores": np.stack(columns, axis=1).tolist()}

    dials = [term.record.sha256 for term in evaluator.terms]
    protocol = {"step": STEP, "dials": dials, **evaluator.drawing}
    return np.array(evaluator.part(candidate, "scores", protocol, compute)["scores"])


@torch.inference_mode()
def _log_probs(evaluator: Evaluator, candidate: Candidate, answers: Sequence[Answer]) -> Array:
    model = evaluator.model(candidate)
    found = np.zeros(len(answers))
    lengths = [length(answer) for answer in answers]
    with suited_threads(model):
        for batch in split_by_length(lengths, tokens=TOKENS, at_most=_ROWS):
            texts = [(answers[place].prompt_ids, answers[place].ids) for place in batch]
            found[batch] = [float(each.double().sum()) for each in score_texts(model, texts)]
    return found


@dataclass(frozen=True)
class Panel:
    """Everything that is read of a setting, by name."""

    evaluator: Evaluator

    @cached_property
    def _known(self) -> dict[str, Gauge]:
        return {}

    def gauge(self, name: str) -> Gauge:
        """Return the figure of this name; that of an axis is its own metric, else its margin.

        Raises:
            DataError: It cannot be measured here.
        """
        if name not in self._known:
            self._known[name] = self._gauge(self._find(name))
        return self._known[name]

    def _find(self, name: str) -> Metric:
        """Find a metric, of which nothing that it does not need is measured."""
        evaluator = self.evaluator
        of_answers = evaluator.answer_metrics()
        head, dot, rest = name.partition(".")
        for axis in evaluator.axes.values():
            if head in (axis.name, *axis.aliases):
                name = axis.name + dot + rest
        if name in of_answers:
            return of_answers[name]
        if name in evaluator.axes:
            return self._effect(name)
        everything = evaluator.pair_metrics(name.partition(".")[0]) if dot else evaluator.metrics()
        found = {metric.name: metric for metric in everything}
        if name not in found:
            if (why := evaluator.missing.get(name)) is not None:
                raise DataError(f"{name!r} cannot be measured: {why.rstrip('.')}.")
            known = [*of_answers, *evaluator.axes]
            raise DataError(
                f"There is no figure {name!r} here; there are {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
        return found[name]

    def effect_gauge(self, axis: str) -> Gauge:
        """Return what an axis moves: its own metric, or else the margin of its pairs."""
        return self.gauge(axis)

    def _effect(self, axis: str) -> Metric:
        metric = self.evaluator.effect(axis)
        if metric is None:
            why = self.evaluator.missing.get(f"{axis}.margin", "there are no held-out pairs of it")
            raise DataError(
                f"Nothing measures {axis}: it has no metric for these prompts, and: {why}."
            )
        return metric

    def _gauge(self, metric: Metric) -> Gauge:
        evaluator = self.evaluator
        if metric.name in ("kl", "kl_per_token"):
            return Gauge(evaluator, metric, Unit.NATS)
        if metric.relative is not None:
            return Gauge(evaluator, metric, Unit.DEVIATIONS, self._deviation(metric))
        values = metric.read(evaluator.plain)
        values = values[np.isfinite(values)]
        if not len(values):
            raise DataError(f"{metric.name!r} counts nothing of the base's answers.")
        unit = unit_of(values)
        deviation = deviation_of(values) if unit is Unit.DEVIATIONS else 1.0
        if not deviation:
            raise DataError(f"{metric.name!r} does not vary over the base's answers.")
        return Gauge(evaluator, metric, unit, deviation)

    def _deviation(self, metric: Metric) -> float:
        """Return the deviation of the margins whose changes a figure is."""
        axis, _, kind = metric.name.rpartition(".")
        if kind != "margin":
            return 1.0
        return deviation_of(self.evaluator.margins(self.evaluator.plain, axis)) or 1.0

    def scores(self, gauge: Gauge, candidate: Candidate) -> Array | None:
        """Return the scores that slopes of a figure of answers need; None of one of pairs."""
        of_answers = (*self.evaluator.answer_metrics(), *self.evaluator.axes)
        if gauge.name not in of_answers:
            return None
        return answer_scores(self.evaluator, candidate)
