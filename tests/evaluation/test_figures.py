from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from prefreg import DataError, Message
from prefreg.evaluation.divergence import Answers, PairScores
from prefreg.evaluation.figures import (
    Column,
    Figures,
    Metric,
    answer_metrics,
    as_column,
    deviation_of,
    measure_figures,
    pair_metrics,
    pair_up,
    win_metrics,
)
from prefreg.evaluation.judge import Judgement
from prefreg.evaluation.prompts import Asked
from prefreg.evaluation.statistics import grouped_mean, rate

ASKED = [Asked((Message("user", str(n)),), str(n), None, n % 2 == 0) for n in range(20)]
GROUPS = [each.group for each in ASKED]
Scores = Sequence[float | None]


def measured(metrics: Iterable[Metric]) -> Figures:
    """Measure metrics that read what they are given for the names of both sides."""
    return measure_figures(metrics, "base", "turned")


def metric(name: str, base: Scores, turned: Scores, words: tuple[int, int] = (6, 9)) -> Metric:
    columns = {"base": as_column(base), "turned": as_column(turned)}
    lengths = {"base": words[0], "turned": words[1]}
    return Metric(
        name,
        "",
        GROUPS[: len(base)],
        columns.__getitem__,
        words=lambda side: np.full(len(base), float(lengths[side])),
        missing="its metric applies to none of the answers",
    )


def judged(words: int, *, refuses: bool = False, correct: bool | None = None) -> list[Judgement]:
    return [Judgement(words, 0.25, False, refuses, correct)] * 20


def answers(nats: float = 0.5) -> Answers:
    return Answers(["a"] * 20, [4] * 20, [nats] * 20, [True] * 20)


def of_answers(asked: Sequence[Asked], base: list[Judgement], turned: list[Judgement]) -> Figures:
    sides = {"base": (answers(0.0), base), "turned": (answers(), turned)}
    return measured(answer_metrics(asked, sides.__getitem__))


def test_reserved_figures_compare_with_the_base() -> None:
    found = of_answers(ASKED, judged(6), judged(9, refuses=True, correct=True))
    assert [each.name for each in found.measured] == [
        "correct", "kl", "kl_per_token", "length", "malformed", "refuses_safe",
        "refuses_unsafe", "repetition",
    ]  # fmt: skip
    length = found.find("length")
    assert length is not None
    assert (length.base.value, length.value.value, length.change.value) == (6, 9, 3)
    safe = found.find("refuses_safe")
    assert safe is not None
    assert (safe.value, safe.base, safe.groups) == (rate(10, 10), rate(0, 10), 10)
    # The base stated nothing that could be true.
    assert (found.find("correct").value, found.find("correct").base) == (rate(20, 20), None)
    assert found.find("kl").value.value == 0.5
    assert found.find("kl_per_token").value.value == pytest.approx(0.125)


def test_what_cannot_be_counted_has_a_reason() -> None:
    asked = [Asked(each.prompt, each.group) for each in ASKED]
    found = of_answers(asked, judged(6), judged(6))
    assert found.missing.keys() == {"correct", "refuses_safe", "refuses_unsafe"}
    assert "give prompts with a kind" in found.missing["refuses_safe"]


def test_fewer_prompts_than_an_interval_needs_are_told() -> None:
    found = measured([metric("kind", [1.0] * 4, [0.0] * 4)])
    assert "needs at least 5 groups" in found.missing["kind"]


def test_what_fails_to_be_read_is_no_reason_but_an_error() -> None:
    def fail(side: object) -> Column:
        raise DataError("The metric of axis 'kind' failed")

    with pytest.raises(DataError, match="'kind' failed"):
        measured([Metric("kind", "", GROUPS, fail)])


def test_a_metric_of_ones_and_zeros_is_a_rate_and_length_stands_beside_it() -> None:
    base = [1.0 if n < 5 else 0.0 for n in range(20)]
    turned = [1.0 if n < 15 else 0.0 for n in range(20)]
    (figure,) = measured([metric("kind", base, turned)]).measured
    assert (figure.unit, figure.value, figure.base) == (
        "share of answers",
        rate(15, 20),
        rate(5, 20),
    )
    assert (figure.base_words, figure.words) == (6, 9)
    # Ten of twenty pairs rise by 1: the paired interval, not that of two independent rates.
    change = grouped_mean([t - b for t, b in zip(turned, base, strict=True)], range(20))
    assert figure.change == pytest.approx(change) or (
        figure.change.low,
        figure.change.high,
    ) == pytest.approx((change.low, change.high))
    assert figure.p is not None
    assert figure.p < 0.001


def test_a_metric_counts_only_where_it_applies() -> None:
    base = [float(n) if n % 2 else None for n in range(20)]
    turned = [n + 2.0 if n % 2 else None for n in range(20)]
    (figure,) = measured([metric("kind", base, turned)]).measured
    assert figure.unit == "mean over answers"
    assert (figure.groups, figure.value.count) == (10, 10)
    assert (figure.change.low, figure.change.high) == pytest.approx((2, 2))
    nothing = measured([metric("kind", [None] * 20, [None] * 20)])
    assert nothing.missing == {"kind": "its metric applies to none of the answers"}


def test_both_sides_are_paired_where_either_counts() -> None:
    table, owners = pair_up(as_column([1, None, None]), as_column([2, 3, None]), ["a", "b", "c"])
    assert table.tolist() == [[1, 1, 2, 1], [0, 0, 3, 1]]
    assert owners == ["a", "b"]


def test_the_margin_of_pairs_is_the_change_against_the_base() -> None:
    base = PairScores(list(range(1, 7)), [-10.0] * 6, [-8.0] * 6, [5] * 6, [2] * 6)
    chosen = [-8.0, -8.0, -8.0, -8.0, -8.0, -10.0]
    turned = PairScores(list(range(1, 7)), chosen, [-9.0] * 5 + [-8.0], [5] * 6, [2] * 6)
    # The first pair was too long for the context.
    groups = [f"g{n}" for n in range(7)]
    found = measured(pair_metrics("kind", groups, base, {"turned": turned}.__getitem__))
    # Five margins of (2 + 1), one of 0, which is a tie; per token 2/5 + 1/2.
    assert found.find("kind.margin").value.value == pytest.approx(2.5)
    assert found.find("kind.margin_per_token").value.value == pytest.approx(0.9 * 5 / 6)
    assert found.find("kind.accuracy").value.value == pytest.approx(5.5 / 6)
    assert found.find("kind.accuracy").groups == 6


def test_what_float32_leaves_of_equal_values_is_no_deviation() -> None:
    assert deviation_of(np.array([1.0, 2.0, np.nan, 3.0])) == 1
    assert deviation_of(np.array([-80.0, -80.00001, -79.99999])) == 0
    assert deviation_of(np.array([np.nan, 1.0])) == 0


def test_wins_stand_alone_and_at_equal_length() -> None:
    rows = np.array([[1.0, 4, 8], [0.0, 4, 2], [1.0, 4, 8], [0.0, 4, 2], [1.0, 4, 8]] * 4)
    found = measured(win_metrics(GROUPS, lambda side: rows))
    assert found.find("judge.wins").value.value == pytest.approx(0.6)
    # Only the longer answers win.
    assert found.find("judge.wins_length_controlled").value.value < 0.6
    assert found.find("judge.wins").base is None


def test_probabilities_are_adjusted_over_all_figures() -> None:
    scores = [float(n % 3) for n in range(20)], [float(n % 3) + 1 for n in range(20)]
    found = measured(metric(name, *scores) for name in ("a", "b", "c", "d"))
    assert [each.p for each in found.measured] == pytest.approx([4 * 2 / 10_001] * 4)
