"""From answers and pairs to figures: each with its interval, and paired against the base."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from prefreg.errors import DataError
from prefreg.evaluation.divergence import Answers, PairScores
from prefreg.evaluation.judge import Judgement
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


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured, and why the rest was not."""

    measured: tuple[Figure, ...]
    missing: Mapping[str, str]

    def find(self, name: str) -> Figure | None:
        """Return a figure by its name."""
        return next((figure for figure in self.measured if figure.name == name), None)


@dataclass(slots=True)
class Sheet:
    """Collects figures; what has too few prompts is left out with the reason."""

    figures: list[Figure]
    missing: dict[str, str]

    @classmethod
    def empty(cls) -> "Sheet":
        """Return one without figures."""
        return cls([], {})

    def add(self, name: str, make: Callable[[str], Figure | str]) -> None:
        """Add the figure that is made of its name, or the reason why there is none."""
        try:
            made = make(name)
        except DataError as error:
            made = str(error).rstrip(".")
        if isinstance(made, str):
            self.missing[name] = made
        else:
            self.figures.append(made)

    def finish(self) -> Figures:
        """Adjust the probabilities over all figures and return them."""
        raw = {each.name: each.p for each in self.figures if each.p is not None}
        adjusted = holm(raw)
        measured = [replace(each, p=adjusted.get(each.name)) for each in self.figures]
        return Figures(tuple(measured), self.missing)


def add_metric(
    sheet: Sheet,
    axis: str,
    asked: Sequence[Asked],
    scores: tuple[Sequence[float | None], Sequence[float | None]],
    judged: tuple[Sequence[Judgement], Sequence[Judgement]],
) -> None:
    """Add an axis's own metric, given for the base and the composition."""

    def make(name: str) -> Figure | str:
        turned = [place for place, score in enumerate(scores[1]) if score is not None]
        if not turned:
            return "its metric applies to none of the answers"
        figure = compare_values(name, "", asked, scores)
        words = [_mean_words(judged[side], scores[side]) for side in (0, 1)]
        return replace(figure, base_words=words[0], words=words[1])

    sheet.add(axis, make)


def add_reserved(
    sheet: Sheet,
    asked: Sequence[Asked],
    answers: Answers,
    judged: tuple[Sequence[Judgement], Sequence[Judgement]],
) -> None:
    """Add the figures that every evaluation has."""
    groups = [each.group for each in asked]
    nats, tokens = np.array(answers.nats), np.array(answers.tokens, dtype=np.float64)

    def both(read: Callable[[Judgement], float | None]) -> tuple[list[float | None], ...]:
        return tuple([read(each) for each in side] for side in judged)

    def where(safe: bool) -> tuple[list[float | None], ...]:
        return tuple(
            [
                float(each.refuses) if prompt.safe is safe else None
                for prompt, each in zip(asked, side, strict=True)
            ]
            for side in judged
        )

    def add(name: str, unit: str, values: tuple[list[float | None], ...], missing: str) -> None:
        sheet.add(name, lambda name: compare_values(name, unit, asked, values, missing))

    add("correct", "share of answers", both(lambda each: _number(each.correct)), _UNCHECKED)
    sheet.add(
        "kl", lambda name: _plain(name, "nats per answer", grouped_mean(nats, groups), groups)
    )
    table = np.stack([nats, tokens], axis=1)
    sheet.add(
        "kl_per_token",
        lambda name: _plain(
            name, "nats per token", bootstrap(table, groups, ratio).estimate, groups
        ),
    )
    add("length", "words", both(lambda each: float(each.words)), "")
    add("malformed", "share of answers", both(lambda each: float(each.malformed)), "")
    add("refuses_safe", "share of safe prompts", where(True), _UNLABELLED.format("safe"))
    add("refuses_unsafe", "share of unsafe prompts", where(False), _UNLABELLED.format("unsafe"))
    add("repetition", "share of runs of 4 words", both(lambda each: each.repetition), "")


_UNCHECKED = "no answer is one whose truth can be checked"
_UNLABELLED = "no prompt is known to be {}: give prompts with a kind"


def add_pairs(
    sheet: Sheet, axis: str, groups: Sequence[str], base: PairScores, turned: PairScores
) -> None:
    """Add Δ of the margin on the held-out pairs of an axis, and how often it rose."""
    before, after = _table(base), _table(turned)
    chosen, rejected = (after[:, side] - before[:, side] for side in (0, 1))
    kept = [groups[place] for place in turned.kept]
    per_token = chosen / after[:, 2] - rejected / after[:, 3]
    for suffix, unit, margin in (
        ("", "nats", chosen - rejected),
        ("_per_token", "nats per token", per_token),
    ):
        risen = (margin > 0) + 0.5 * (margin == 0)
        sheet.add(f"{axis}.margin{suffix}", partial(_moved, unit=unit, change=margin, groups=kept))
        sheet.add(f"{axis}.accuracy{suffix}", partial(_risen, risen=risen, groups=kept))


def _table(scores: PairScores) -> Column:
    columns = (scores.chosen, scores.rejected, scores.chosen_tokens, scores.rejected_tokens)
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _moved(name: str, *, unit: str, change: Column, groups: Sequence[str]) -> Figure:
    found = bootstrap(np.stack([change, np.ones_like(change)], axis=1), groups, ratio)
    return Figure(name, unit, found.estimate, None, found.estimate, found.p, len(set(groups)))


def _risen(name: str, *, risen: Column, groups: Sequence[str]) -> Figure:
    tied = bool((risen == 0.5).any())
    value = grouped_mean(risen, groups) if tied else grouped_rate(list(risen == 1), groups)
    return _plain(name, "share of pairs", value, groups)


def _plain(name: str, unit: str, value: Estimate, groups: Sequence[str]) -> Figure:
    return Figure(name, unit, value, None, None, None, len(set(groups)))


def compare_values(
    name: str,
    unit: str,
    asked: Sequence[Asked],
    sides: Sequence[Sequence[float | None]],
    missing: str = "",
) -> Figure:
    """Compare means over what counts on either side, the base first, group by group.

    Values of 0 and 1 alone are a rate; None does not count.
    """
    base, turned = (np.array([np.nan if v is None else v for v in side]) for side in sides)
    groups = [each.group for each in asked]
    counted = np.isfinite(turned)
    if not counted.any():
        raise DataError(missing or "nothing could be counted")
    shares = all(v in (0.0, 1.0) for v in (*turned[counted], *base[np.isfinite(base)]))
    unit = unit or ("share of answers" if shares else "mean over answers")
    value = _estimate(turned, groups, shares)
    if not np.isfinite(base).any():
        # The base gave no such answer, so there is nothing to compare with.
        owners = [group for group, used in zip(groups, counted, strict=True) if used]
        return _plain(name, unit, value, owners)
    ones = [np.isfinite(side).astype(np.float64) for side in (turned, base)]
    table = np.stack([np.nan_to_num(turned), ones[0], np.nan_to_num(base), ones[1]], axis=1)
    either = (ones[0] + ones[1]) > 0
    owners = [group for group, used in zip(groups, either, strict=True) if used]
    found = bootstrap(table[either], owners, ratio_change)
    return Figure(
        name=name,
        unit=unit,
        value=value,
        base=_estimate(base, groups, shares),
        change=found.estimate,
        p=found.p,
        groups=len(set(owners)),
    )


def _estimate(values: Column, groups: Sequence[str], shares: bool) -> Estimate:
    counted = np.isfinite(values)
    owners = [group for group, used in zip(groups, counted, strict=True) if used]
    if shares:
        return grouped_rate([bool(value) for value in values[counted]], owners)
    return grouped_mean(values[counted], owners)


def _mean_words(judged: Iterable[Judgement], scores: Sequence[float | None]) -> float | None:
    words = [each.words for each, s in zip(judged, scores, strict=True) if s is not None]
    return float(np.mean(words)) if words else None


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)
