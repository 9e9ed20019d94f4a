import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefreg.axes.answer_texts import word_count
from prefreg.axes.axis import Axis, Message, PreferencePair, Row
from prefreg.axes.isolation import label_rows, switch_pairs
from prefreg.data.pairs import balance_lengths, build_pairs, fingerprint_pairs
from prefreg.errors import DataError


def pair(prompt: str, chosen: str = "yes", rejected: str = "no", group: str | None = None) -> Any:
    return PreferencePair.from_texts(prompt=prompt, chosen=chosen, rejected=rejected, group=group)


def build(pairs: Sequence[PreferencePair | None], seed: int = 0) -> Any:
    return build_pairs(pairs, axis_name="kind", seed=seed)


def axis(label: Any, switch: Any = PreferencePair.switched) -> Axis:
    return Axis("kind", "Kindness.", {"none": lambda request: []}, label=label, switch=switch)


def test_everything_dropped_is_counted() -> None:
    audit = build(
        [
            None,
            pair("a"),
            pair("a"),  # a repetition
            pair("b", "same", "same"),
            pair("c", "x", "y"),
            pair("c", "y", "x"),  # contradicts the one before
            pair("d", "three words here", "one"),
            pair("e", "  ", "one"),  # says nothing
        ]
    ).audit
    assert (audit.rows, audit.ties, audit.duplicates, audit.identical) == (8, 1, 1, 1)
    assert audit.empty == 1
    assert (audit.contradictions, audit.pairs, audit.train, audit.heldout) == (2, 2, 2, 0)
    assert (audit.chosen_longer, audit.equal_length) == (0.5, 0.5)
    assert (audit.chosen_words, audit.rejected_words) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "'kind' has nothing to train on: .*its source gave no rows"),
        ([None, None], "'kind' never decides: all 2 rows are ties"),
        (
            [pair("c", "x", "y"), pair("c", "y", "x")],
            "'kind' has nothing to train on: .*2 contradicting",
        ),
    ],
)
def test_nothing_left_is_an_error_with_counts(rows: list[Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        build(rows)


def test_a_tenth_is_held_out_and_at_most_200() -> None:
    assert len(build([pair(str(n)) for n in range(10)]).heldout) == 1
    assert len(build([pair(str(n)) for n in range(100)]).heldout) == 10
    assert len(build([pair(str(n)) for n in range(2500)]).heldout) == 200
    assert len(build([pair(str(n)) for n in range(9)]).heldout) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 9))
def test_no_group_stands_on_both_sides(groups: list[int], seed: int) -> None:
    made = build([pair(str(n), group=str(group)) for n, group in enumerate(groups)], seed)
    assert len(made.train) + len(made.heldout) == len(groups)
    assert made.train
    assert not {p.group for p in made.train} & {p.group for p in made.heldout}
    assert bool(made.heldout) == (len(set(groups)) >= 10)


def test_the_held_out_pairs_ignore_the_seed_and_the_order_follows_it() -> None:
    pairs = [pair(str(n)) for n in range(40)]
    first, again, other = build(pairs, 1), build(pairs[::-1], 1), build(pairs, 2)
    assert first == again
    assert first.heldout == other.heldout
    assert first.train != other.train
    assert set(first.train) == set(other.train)


def test_the_fingerprint_is_of_the_pairs_and_not_of_their_order() -> None:
    one, two = pair("a"), pair("b")
    assert fingerprint_pairs([one, two]) == fingerprint_pairs([two, one])
    assert fingerprint_pairs([one, two]) != fingerprint_pairs([one, two.switched()])
    assert build([one, two]).fingerprint == fingerprint_pairs([one, two])


def test_prompts_shared_with_a_separate_held_out_set_are_counted() -> None:
    made = build_pairs(
        [pair("a"), pair("b")], axis_name="kind", seed=0, heldout=[pair("b", "x", "y"), pair("c")]
    )
    assert (made.audit.shared_prompts, made.audit.train, made.audit.heldout) == (1, 2, 2)


def test_an_error_of_the_label_rule_names_axis_row_and_columns() -> None:
    def label(row: Row) -> PreferencePair:
        return pair(row["prompt"])

    with pytest.raises(DataError) as caught:
        list(label_rows(axis(label), [{"prompt": "a"}, {"question": "b"}]))
    assert str(caught.value) == (
        "The label rule of axis 'kind' failed on row 2 (columns: question): KeyError: 'prompt'"
    )


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (lambda row: "text", "returned a str"),
        (lambda row: PreferencePair.from_row(row), "column 'chosen', 'rejected' is missing"),
        (lambda row: PreferencePair("a", [1], "b"), "neither all strings nor all tuples"),
        (lambda row: PreferencePair((), (), ()), "with an empty tuple of messages"),
    ],
)
def test_a_wrong_answer_of_the_label_rule_is_named(label: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        list(label_rows(axis(label), [{"prompt": "a"}]))


def test_a_row_that_is_no_mapping_is_named() -> None:
    with pytest.raises(DataError, match="Row 1 of axis 'kind' is a str"):
        list(label_rows(axis(lambda row: None), ["text"]))  # type: ignore[list-item]


def test_half_a_surrogate_pair_is_an_error() -> None:
    with pytest.raises(DataError, match="Row 2 of axis 'kind' holds half"):
        build([pair("a"), pair("\ud800")])


def test_a_switch_that_fails_is_named() -> None:
    broken = axis(lambda row: None, switch=lambda p: p.nothing)
    with pytest.raises(
        DataError, match="The switch of axis 'kind' failed on pair 1: AttributeError"
    ):
        switch_pairs(broken, [pair("a")])
    with pytest.raises(DataError, match="The switch of axis 'kind' returned a NoneType"):
        switch_pairs(axis(lambda row: None, switch=lambda p: None), [pair("a")])  # type: ignore[arg-type,return-value]


def worded_pair(number: int, chosen: int, rejected: int) -> PreferencePair:
    return PreferencePair(
        f"{number}?", f"{number} " + "a " * chosen, f"{number} " + "b " * rejected
    )


def biased(count: int, *, seed: int = 0) -> list[PreferencePair]:
    """Make pairs whose longer answer is preferred the more often, the longer it is."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        first, second = (math.ceil(draw.lognormvariate(3, 0.8)) for _ in range(2))
        longer, shorter = max(first, second), min(first, second)
        likely = 0.5 + 0.35 * math.tanh((longer - shorter) / 15)
        pairs.append(
            worded_pair(number, longer, shorter)
            if draw.random() < likely
            else worded_pair(number, shorter, longer)
        )
    return pairs


def gaps(pairs: list[PreferencePair]) -> numpy.ndarray:
    return numpy.array([word_count(each.chosen) - word_count(each.rejected) for each in pairs])


def best_threshold(found: numpy.ndarray) -> float:
    """Return the best share of right answers of "the longer one is chosen iff by at least t words".

    Below the threshold the opposite is guessed, so that every cut of the differences is tried.
    """
    known = found[found != 0]
    right = [
        numpy.mean(numpy.where(abs(known) >= threshold, known > 0, known < 0))
        for threshold in range(1, abs(known).max() + 2)
    ]
    return float(max(max(right), 1 - min(right)))


def logistic_slope(found: numpy.ndarray) -> tuple[float, float]:
    """Fit P(first is chosen) = σ(slope·difference) to pairs in random order, with its error."""
    signs = numpy.random.default_rng(0).choice([-1, 1], len(found))
    x, y = found * signs / 10, (signs + 1) / 2
    slope = 0.0
    for _ in range(50):
        p = 1 / (1 + numpy.exp(-slope * x))
        slope += float(numpy.sum((y - p) * x) / numpy.sum(p * (1 - p) * x * x))
    p = 1 / (1 + numpy.exp(-slope * x))
    return slope, float(1 / numpy.sqrt(numpy.sum(p * (1 - p) * x * x)))


def test_what_length_predicted_it_predicts_no_more() -> None:
    pairs = biased(4000)
    before, after = gaps(pairs), gaps(balance_lengths(pairs, seed=0))
    assert best_threshold(before) > 0.7
    slope, error = logistic_slope(before)
    assert slope > 10 * error
    assert best_threshold(after) < 0.505
    slope, error = logistic_slope(after)
    assert abs(slope) < error
    assert len(after) > 0.4 * len(before)


def test_each_small_difference_stands_on_both_sides_equally_often() -> None:
    counts = Counter(gaps(balance_lengths(biased(3000), seed=0)).tolist())
    assert sum(count for gap, count in counts.items() if gap > 0) == sum(
        count for gap, count in counts.items() if gap < 0
    )
    for gap in range(1, 11):
        assert counts[gap] == counts[-gap] > 0


def test_pairs_of_equal_length_stay_and_so_does_the_order() -> None:
    pairs = [
        worded_pair(0, 5, 5),
        worded_pair(1, 7, 3),
        worded_pair(2, 3, 7),
        worded_pair(3, 9, 1),
    ]
    assert balance_lengths(pairs, seed=0) == pairs[:3]


def test_the_choice_depends_on_the_seed_alone() -> None:
    pairs = biased(300)
    assert balance_lengths(pairs, seed=1) == balance_lengths(pairs, seed=1)
    assert balance_lengths(pairs, seed=1) != balance_lengths(pairs, seed=2)


def test_the_audit_counts_what_was_left_out() -> None:
    found = build_pairs(biased(2000), axis_name="kind", seed=0, length_balanced=True)
    audit = found.audit
    assert audit.rows == 2000 == audit.pairs + audit.unbalanced
    assert audit.unbalanced > 100
    assert audit.pairs == len(found.train) + len(found.heldout)
    assert audit.chosen_longer == pytest.approx((1 - audit.equal_length) / 2, abs=1e-9)
    # On each side of the split, not only on both together.
    for side in (found.train, found.heldout):
        assert numpy.sum(gaps(list(side)) > 0) == numpy.sum(gaps(list(side)) < 0)


def test_the_order_of_the_rows_changes_nothing() -> None:
    pairs = biased(500)
    again = random.Random(5).sample(pairs, len(pairs))
    once = build_pairs(pairs, axis_name="kind", seed=3, length_balanced=True)
    assert build_pairs(again, axis_name="kind", seed=3, length_balanced=True) == once


def test_without_the_option_nothing_is_left_out() -> None:
    assert build_pairs(biased(200), axis_name="kind", seed=0).audit.unbalanced == 0


def test_data_that_are_all_about_length_are_refused() -> None:
    pairs = [worded_pair(number, 5 + number % 7, 3) for number in range(100)]
    with pytest.raises(DataError, match=r"of \d+ training pairs only 0 are left once length"):
        build_pairs(pairs, axis_name="verbosity", seed=0, length_balanced=True)


def test_a_pair_without_tools_keeps_the_hash_that_it_had() -> None:
    content = [[["user", "a"]], [["assistant", "yes"]], [["assistant", "no"]], "g"]
    digest = hashlib.sha256(json.dumps(content).encode()).digest()
    assert fingerprint_pairs([pair("a", group="g")]) == hashlib.sha256(digest).hexdigest()


def test_pairs_that_differ_in_what_the_template_is_told_are_two() -> None:
    plain = pair("a")
    prompt, chosen, rejected = plain.prompt, plain.chosen, plain.rejected
    told = [
        PreferencePair(prompt, chosen, rejected, tools='[{"name": "look"}]'),
        PreferencePair(prompt, chosen, rejected, template_options='{"think": true}'),
        PreferencePair(prompt, (Message("assistant", "yes", {"thought": "so"}),), rejected),
    ]
    audit = build([plain, *told, *told]).audit
    assert (audit.pairs, audit.duplicates) == (4, 3)
    assert len({fingerprint_pairs([each]) for each in (plain, *told)}) == 4
    # The same answers in the opposite order contradict only beside the same tools.
    opposite = PreferencePair(prompt, rejected, chosen, tools='[{"name": "look"}]')
    assert build([plain, opposite]).audit.contradictions == 0
    assert build([told[0], opposite, pair("b")]).audit.contradictions == 2


def test_an_answer_that_calls_a_tool_is_not_empty() -> None:
    call = Message("assistant", "", {"content": None, "tool_calls": [{"name": "look"}]})
    made = PreferencePair(pair("a").prompt, (call,), pair("a").rejected)
    assert build([made]).audit.empty == 0


def test_where_prompts_came_from_is_counted_and_told() -> None:
    rows: list[Row] = [
        {"chosen": "is it so? yes", "rejected": "is it so? no"},
        {"prompt": "is it?", "chosen": "is it? yes", "rejected": "is it? no"},
        {"prompt": "and now?", "chosen": "yes", "rejected": "no"},
    ]
    audit = build([PreferencePair.from_row(row) for row in rows]).audit
    assert (audit.pairs, audit.implicit, audit.repeated) == (3, 1, 1)
    assert audit.notes(max_length=9) == [
        "1 rows name no prompt: it is what both answers begin with, as in TRL.",
        "The answers of 1 rows begin with their prompt, which was taken away.",
    ]
