"""What a pole learned against the reference, and whether it may be trusted."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import torch

from prefreg.errors import GateError, UsageError
from prefreg.json_values import JsonFields
from prefreg.models.log_probs import PairLogProbs, margins, preference_accuracy


@dataclass(frozen=True, slots=True)
class PoleReport(JsonFields):
    """Figures of one pole on pairs that it prefers; changes are against the reference."""

    pairs: int
    split: str
    """`heldout`, or `train` where the data is too small to hold pairs out."""
    accuracy: float
    """Share of pairs whose implicit reward margin is positive; a tie counts one half."""
    mean_margin: float
    """Mean change of log p(chosen) − log p(rejected), in nats; β times it is the reward margin."""
    mean_margin_per_token: float
    chosen_change: float
    """Mean change of log p(chosen) in nats; far below zero, the answers of the data got lost."""
    chosen_change_per_token: float
    rejected_change: float
    rejected_change_per_token: float
    preference_accuracy: float
    """Share of pairs whose chosen answer the pole finds more probable than the rejected one."""
    reference_accuracy: float
    """The same of the reference."""


def compare(policy: PairLogProbs, reference: PairLogProbs, *, split: str = "heldout") -> PoleReport:
    """Compare a pole with the reference on the same pairs."""
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margin = chosen - rejected
    chosen_per_token = _per_token(chosen, policy.chosen_tokens)
    rejected_per_token = _per_token(rejected, policy.rejected_tokens)
    return PoleReport(
        pairs=len(policy),
        split=split,
        accuracy=preference_accuracy(margin),
        mean_margin=float(margin.mean()),
        mean_margin_per_token=chosen_per_token - rejected_per_token,
        chosen_change=float(chosen.mean()),
        chosen_change_per_token=chosen_per_token,
        rejected_change=float(rejected.mean()),
        rejected_change_per_token=rejected_per_token,
        preference_accuracy=preference_accuracy(margins(policy)),
        reference_accuracy=preference_accuracy(margins(reference)),
    )


def _per_token(change: torch.Tensor, tokens: torch.Tensor) -> float:
    """Return the change of the average token: long answers count for as much as they weigh."""
    return float(change.sum() / tokens.sum())


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a pole must meet.

    Measured on the bundled model and on a pretrained one of 260 K parameters. Sound runs had
    accuracies of .54 to 1, margins of .5 to 36 nats, and log-probabilities per token that fell
    by .53 (chosen) and .51 (rejected) at most. At 30 times the learning rate the chosen answers
    fell by 1.7 or the rejected ones by 4.6 to 5.9, whatever accuracy and loss said. A margin of
    .005, after 20 steps of 1e-6, changed no answer.
    """

    accuracy: float = 0.5
    mean_margin: float = 0.01
    chosen_drop_per_token: float = 1.0
    rejected_drop_per_token: float = 2.0
    repetition_rise: float = 0.3
    """Rises are of shares of the answers on the way, over the base's."""
    loop_rise: float = 0.25
    """Also of the finished vector at η = ±1."""
    empty_rise: float = 0.5
    unended_rise: float = 0.5
    refusal_rise: float = 0.5
    """Of benign prompts; a pole that is taught to refuse is only warned of."""
    length_factor: float = 2.0
    """Answers may be this much longer or shorter than the base's and those of the data."""


@dataclass(frozen=True, slots=True)
class Guards:
    """How a run is guarded."""

    thresholds: Thresholds = Thresholds()
    watched: bool = True
    """Look at each pole while it is trained, and stop it where it collapses."""
    prompts: int = 16
    """How many held-out prompts a watched pole answers now and then."""
    benign: tuple[str, ...] = ()
    """Further prompts, which nobody need refuse."""


def read_thresholds(assignments: Sequence[str] | Mapping[str, float]) -> Thresholds:
    """Read `KEY=VALUE` of thresholds, or take a mapping; the others keep their defaults."""
    if isinstance(assignments, Mapping):
        assignments = [f"{name}={value}" for name, value in assignments.items()]
    names = [each.name for each in fields(Thresholds)]
    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
            raise UsageError(f"There is no guard {name!r}. {hint}")
        try:
            values[name] = float(value) if equals else math.nan
        except ValueError:
            values[name] = math.nan
        if math.isnan(values[name]):
            raise UsageError(f"{text!r} is not KEY=NUMBER, as in accuracy=0.6.")
    return Thresholds(**values)


BOTH = "both"
"""Stands for a pole in figures of the pair."""


@dataclass(frozen=True, slots=True)
class Failure(JsonFields):
    """A figure of one pole that misses its threshold."""

    pole: str
    figure: str
    value: float
    threshold: float
    advice: str

    def __str__(self) -> str:
        whose = f"the {self.pole} pole's" if self.pole != BOTH else "the poles' mean"
        return (
            f"{whose} {self.figure} is {self.value:.3g} "
            f"(threshold {self.threshold:.3g}): {self.advice}"
        )


def check_pole(
    pole: str,
    report: PoleReport,
    weights: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    thresholds: Thresholds = Thresholds(),
    *,
    prefers: bool = True,
) -> tuple[Failure, ...]:
    """Return every figure of a pole that misses its threshold.

    Of one that was not trained to prefer, the margin is that of the pair alone (`check_pair`):
    where the base gives the answers of a pole already, that pole stays beside it.
    """
    broken = sum(not bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    if broken:
        advice = "training diverged; lower learning_rate"
        return (Failure(pole, "number of tensors that are not finite", broken, 0, advice),)
    if all(torch.equal(weights[name], base[name]) for name in weights):
        advice = "training changed nothing; raise learning_rate or the number of steps"
        return (Failure(pole, "number of changed tensors", 0, 1, advice),)
    where = _where(report)
    collapsed = "it collapsed; lower learning_rate or the number of steps, or raise beta"
    changes = (
        (
            f"change of {where} chosen log-probability per token",
            report.chosen_change_per_token,
            -thresholds.chosen_drop_per_token,
            collapsed,
        ),
        (
            f"change of {where} rejected log-probability per token",
            report.rejected_change_per_token,
            -thresholds.rejected_drop_per_token,
            collapsed,
        ),
    )
    margins = _margins(where, report.accuracy, report.mean_margin, thresholds) if prefers else ()
    return _missed(pole, (*margins, *changes))


def check_pair(
    positive: PoleReport, negative: PoleReport, thresholds: Thresholds = Thresholds()
) -> tuple[Failure, ...]:
    """Return every figure of φ, the mean of both poles', that misses its threshold."""
    both = (positive, negative)
    accuracy = fmean(report.accuracy for report in both)
    margin = fmean(report.mean_margin for report in both)
    return _missed(BOTH, _margins(_where(positive), accuracy, margin, thresholds))


_Figure = tuple[str, float, float, str]


def _where(report: PoleReport) -> str:
    return "held-out" if report.split == "heldout" else "training"


def _margins(
    where: str, accuracy: float, margin: float, thresholds: Thresholds
) -> tuple[_Figure, ...]:
    return (
        (
            f"{where} accuracy",
            accuracy,
            thresholds.accuracy,
            "what it learnt does not carry over; use more pairs, or check the label rule",
        ),
        (
            f"{where} margin in nats",
            margin,
            thresholds.mean_margin,
            "it hardly moved; raise learning_rate, the number of steps or of pairs",
        ),
    )


def _missed(pole: str, figures: Sequence[_Figure]) -> tuple[Failure, ...]:
    return tuple(
        Failure(pole, figure, value, threshold, advice)
        for figure, value, threshold, advice in figures
        # A figure that is not a number meets no threshold.
        if not value >= threshold
    )


def enforce(failures: Sequence[Failure], *, axis_name: str, keep_anyway: bool) -> None:
    """Stop a run whose poles do not meet their thresholds, unless told to keep it."""
    if failures and not keep_anyway:
        raise GateError(
            f"Axis {axis_name!r} is not kept: {'; '.join(map(str, failures))}. "
            "Pass --keep-anyway to keep it, with this on record."
        )
