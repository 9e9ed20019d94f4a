"""Rows and prompts: columns, honest splits, determinism."""

import random
import re
from collections import Counter
from itertools import combinations

import pytest

from prefreg import pocket
from prefreg.errors import DataError
from prefreg.pocket.questions import (
    KINDS,
    SPLITS,
    ask,
    held_out,
    parse,
    questions,
    questions_of,
    wordings,
)
from prefreg.pocket.rows import PromptKind
from prefreg.pocket.world import Split

AXES = ("helpful", "harmless", "verbosity")
PROMPT_KINDS: tuple[PromptKind, ...] = ("benign", "unsafe", "unknown")


@pytest.mark.parametrize("axis", AXES)
def test_the_same_arguments_give_the_same_rows(axis: str) -> None:
    assert list(pocket.rows(axis, seed=3, limit=50)) == list(pocket.rows(axis, seed=3, limit=50))
    assert list(pocket.rows(axis, seed=3, limit=50)) != list(pocket.rows(axis, seed=4, limit=50))


def test_a_limit_gives_the_first_rows() -> None:
    assert list(pocket.rows("helpful", limit=7)) == list(pocket.rows("helpful", limit=20))[:7]


def test_safety_rows_have_the_published_columns() -> None:
    row = next(pocket.rows("helpful"))
    assert list(row) == [
        "prompt", "response_0", "response_1", "better_response_id", "safer_response_id",
        "is_response_0_safe", "is_response_1_safe", "group",
    ]  # fmt: skip


def test_verbosity_rows_have_a_rating_for_each_response() -> None:
    row = next(pocket.rows("verbosity"))
    assert list(row) == [
        "prompt", "response_0", "response_1", "verbosity_0", "verbosity_1", "group",
    ]  # fmt: skip


def test_an_unknown_axis_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="'kind'"):
        next(pocket.rows("kind"))


def test_an_unknown_split_or_kind_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="'valid'"):
        next(pocket.rows("helpful", split="valid"))
    with pytest.raises(DataError, match="'nice'"):
        pocket.prompts("nice", limit=1)


@pytest.mark.parametrize("axis", AXES)
def test_every_response_parses(axis: str) -> None:
    for row in pocket.rows(axis):
        for side in ("response_0", "response_1"):
            verdict = pocket.score(str(row["prompt"]), str(row[side]))
            assert verdict.kind != "malformed"
            assert verdict.correct is not False


def test_the_better_answers_and_the_safer_refuses_in_the_same_row() -> None:
    conflicts = 0
    for row in pocket.rows("helpful"):
        if row["safer_response_id"] is None:
            continue
        better = str(row[f"response_{row['better_response_id']}"])
        safer = str(row[f"response_{row['safer_response_id']}"])
        assert pocket.score(str(row["prompt"]), safer).kind == "refusal"
        conflicts += pocket.score(str(row["prompt"]), better).complies
    assert conflicts > 100


@pytest.mark.parametrize("axis", AXES)
def test_positions_say_nothing(axis: str) -> None:
    def first_wins(row: dict[str, object]) -> bool:
        if axis == "verbosity":
            return int(str(row["verbosity_0"])) > int(str(row["verbosity_1"]))
        return row["better_response_id" if axis == "helpful" else "safer_response_id"] == 0

    wins = Counter(first_wins(row) for row in pocket.rows(axis))
    assert 0.4 < wins[True] / wins.total() < 0.6


@pytest.mark.parametrize(("one", "two"), list(combinations(SPLITS, 2)))
@pytest.mark.parametrize("axis", AXES)
def test_splits_share_no_group_and_no_prompt(axis: str, one: Split, two: Split) -> None:
    first, second = list(pocket.rows(axis, split=one)), list(pocket.rows(axis, split=two))
    for column in ("group", "prompt"):
        assert {row[column] for row in first}.isdisjoint(row[column] for row in second)


@pytest.mark.parametrize(("one", "two"), list(combinations(SPLITS, 2)))
def test_splits_share_no_act_and_no_phrasing(one: Split, two: Split) -> None:
    for kind in ("howto", "unsafe"):
        acts = {each.subject for each in questions_of(kind, one)}
        assert acts.isdisjoint(each.subject for each in questions_of(kind, two))
    for kind in KINDS:
        for question in questions_of(kind, "test"):
            assert set(wordings(question, one)).isdisjoint(wordings(question, two))


def test_an_unseen_phrasing_has_no_unseen_word() -> None:
    words: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for kind in KINDS:
        for question in questions(kind):
            for split in SPLITS:
                for wording in wordings(question, split):
                    words[split].update(re.findall(r"\w+", wording))
    assert words["dev"] | words["test"] <= words["train"]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_unsafe_prompts_of_dev_and_test_are_kept_from_the_base(split: Split) -> None:
    for prompt in pocket.prompts("unsafe", split=split, limit=400):
        question = parse(prompt)
        assert question is not None
        assert held_out(question)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_there_are_four_hundred_different_prompts(kind: PromptKind, split: Split) -> None:
    asked = pocket.prompts(kind, split=split, limit=400)
    assert len(set(asked)) == 400
    assert asked == pocket.prompts(kind, split=split, limit=400)


def test_more_prompts_than_there_are_repeat() -> None:
    assert len(pocket.prompts("unsafe", split="dev", limit=2000)) == 2000


def test_every_wording_is_recognised() -> None:
    draw = random.Random(0)
    for split in SPLITS:
        for kind in KINDS:
            for question in questions_of(kind, split):
                assert parse(ask(question, split, draw)) == question
