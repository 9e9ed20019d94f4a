"""How the rules of YAML axes label rows."""

from typing import Any

import pytest

from prefreg import DataError, Message, PreferencePair
from prefreg.axes.axis import plain_text
from prefreg.axes.yaml_axes import RULES, label_by

RATED = {"prompt": "q", "response_0": "a", "response_1": "b b", "place": "rows.jsonl:3"}


def label(rule: str, row: dict[str, Any], min_gap: float = 0.0) -> str | None:
    """Return the chosen and the rejected text."""
    pair = label_by(RULES[rule], min_gap)({**RATED, **row})
    return pair and f"{plain_text(pair.chosen)} > {plain_text(pair.rejected)}"


def test_a_preference_is_taken_as_it_is() -> None:
    assert label("preference", {"chosen": "x", "rejected": "y"}) == "x > y"


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (1, 2, "b b > a"),
        (2.5, 2, "a > b b"),
        ("10", "9", "a > b b"),
        (3, 3, None),
        (None, 3, None),
        ("N/A", 3, None),
    ],
)
def test_the_higher_rating_wins(first: object, second: object, found: str | None) -> None:
    assert label("higher-rating", {"rating_0": first, "rating_1": second}) == found


def test_a_smaller_gap_than_asked_for_is_a_tie() -> None:
    assert label("higher-rating", {"rating_0": 1, "rating_1": 2}, 2) is None
    assert label("higher-rating", {"rating_0": 1, "rating_1": 3}, 2) == "b b > a"
    assert label("longer", {}, 1) == "b b > a"
    assert label("longer", {}, 2) is None


@pytest.mark.parametrize(
    ("winner", "found"),
    [
        (0, "a > b b"),
        (1, "b b > a"),
        (1.0, "b b > a"),
        (True, "b b > a"),
        ("1", "b b > a"),
        (2, None),
        (10**400, None),
        (None, None),
    ],
)
def test_the_number_names_the_winner(winner: object, found: str | None) -> None:
    assert label("numbered", {"winner": winner}) == found


def test_more_words_win() -> None:
    assert label("longer", {}) == "b b > a"
    assert label("longer", {"response_0": "c c c"}) == "c c c > b b"
    assert label("longer", {"response_0": "c c"}) is None


@pytest.mark.parametrize(
    ("rule", "row", "words"),
    [
        ("higher-rating", {"rating_0": "good", "rating_1": 1}, "'rating_0' holds 'good', not a ra"),
        ("higher-rating", {"rating_0": [1], "rating_1": 1}, "not a rating"),
        ("higher-rating", {"rating_0": float("nan"), "rating_1": 1}, "not a rating"),
        ("higher-rating", {"rating_0": 10**400, "rating_1": 1}, "not a rating"),
        ("higher-rating", {"rating_0": "1e999", "rating_1": 1}, "not a rating"),
        ("numbered", {"winner": "A"}, "'winner' holds 'A', not the number of a response"),
        ("preference", {"chosen": "", "rejected": "y"}, "column 'chosen' is empty"),
        ("preference", {"chosen": 7, "rejected": "y"}, "neither a string nor a list of messages"),
        ("longer", {"prompt": " "}, "column 'prompt' is empty"),
    ],
)
def test_what_cannot_be_labelled_is_told_with_its_place(
    rule: str, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        label(rule, row)
    assert str(caught.value).startswith("rows.jsonl:3: ")
    assert words in str(caught.value)


def test_strings_become_a_dialogue_and_messages_stay() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rule = label_by(RULES["longer"], 0)
    pair, other = rule(RATED), rule({**RATED, "prompt": turns, "group": 7})
    assert pair is not None
    assert other is not None
    assert pair.prompt == (Message("user", "q"),)
    assert pair.chosen == (Message("assistant", "b b"),)
    assert other.prompt == (Message("system", "s"), Message("user", "u"))
    assert other.group == "7"


QUESTION = {"prompt": "q", "chosen": "x", "rejected": "y", "place": "rows.jsonl:3"}
TURNS = PreferencePair.from_texts(prompt="q", chosen="x", rejected="y")


def test_rows_of_the_preference_format_are_what_they_are_everywhere() -> None:
    assert label_by(RULES["preference"], 0)(QUESTION) == PreferencePair.from_row(QUESTION)
    assert label_by(RULES["preference"], 0)(QUESTION) == PreferencePair("q", "x", "y")
    assert label_by(RULES["preference"], 0, "turns")(QUESTION) == TURNS
    assert label_by(RULES["longer"], 0, "verbatim")(RATED) == PreferencePair("q", "b b", "a")


def test_strings_that_are_turns_need_a_prompt_and_whole_dialogues_do_not() -> None:
    rule = label_by(RULES["preference"], 0, "turns")
    with pytest.raises(DataError, match=r"rows.jsonl:3: column 'prompt' is missing"):
        rule({**QUESTION, "prompt": None})
    asked = {"role": "user", "content": "q"}
    whole = {
        name: [asked, {"role": "assistant", "content": QUESTION[name]}]
        for name in ("chosen", "rejected")
    }
    assert rule({**QUESTION, "prompt": None, **whole}) == TURNS
    assert rule({**QUESTION, **whole}) == TURNS


def test_a_question_repeated_by_both_responses_is_taken_away() -> None:
    row = {**RATED, "prompt": "is it?", "response_0": "is it? no", "response_1": "is it? oh yes"}
    assert label("longer", row) == " oh yes >  no"


def test_what_a_template_is_told_goes_with_the_pair() -> None:
    turns = {"prompt": "q", "response_0": "a", "response_1": "b b"}
    pair = label_by(RULES["longer"], 0)({**RATED, **turns, "tools": [{"name": "look"}]})
    assert pair is not None
    assert pair.tools == '[{"name": "look"}]'
