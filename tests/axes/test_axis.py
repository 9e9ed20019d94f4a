import copy
import json
import pickle
from typing import Any

import pytest

from prefreg import Axis, AxisError, DataError, Message, PreferencePair
from prefreg.axes.axis import is_blank, plain_text, without_repetition

PAIR = PreferencePair.from_texts(prompt="p", chosen="a", rejected="b", group="g")


def make_axis(name: str, *aliases: str) -> Axis:
    return Axis(
        name=name,
        summary="",
        aliases=aliases,
        sources={"rows": lambda request: []},
        label=PreferencePair.from_row,
    )


@pytest.mark.parametrize("name", ["a", "helpful", "human-like", "like_2"])
def test_an_axis_is_named_by_small_letters_digits_and_dashes(name: str) -> None:
    assert make_axis("x", name).aliases == (name,)
    assert make_axis(name).name == name


@pytest.mark.parametrize("name", ["", "A", "2nd", "-a", "a b", "a@1", "a:1", "ä", "a\n"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(AxisError, match="no axis name"):
        make_axis(name)
    with pytest.raises(AxisError, match="no axis name"):
        make_axis("fine", name)


def test_an_axis_without_a_source_is_refused() -> None:
    with pytest.raises(AxisError, match="has no source"):
        Axis(name="a", summary="", sources={}, label=PreferencePair.from_row)


def test_switching_exchanges_the_answers_and_keeps_the_rest() -> None:
    switched = PAIR.switched()
    assert (switched.chosen, switched.rejected) == (PAIR.rejected, PAIR.chosen)
    assert (switched.prompt, switched.group) == (PAIR.prompt, "g")
    assert switched.switched() == PAIR


def test_a_row_of_strings_stays_a_pair_of_strings() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "group": 3, "other": None}
    assert PreferencePair.from_row(row) == PreferencePair("p", "a", "b", "3")


def test_a_row_of_messages_becomes_messages() -> None:
    row = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": "b",
    }
    with pytest.raises(DataError, match="mix strings and message lists"):
        PreferencePair.from_row(row)
    pair = PreferencePair.from_row({**row, "chosen": "a"})
    assert pair.prompt == (Message("system", "s"), Message("user", "p"))
    assert pair.chosen == (Message("assistant", "a"),)
    assert pair.rejected == (Message("assistant", "b"),)


WRONG = [
    ({"prompt": "p"}, "column 'chosen', 'rejected' is missing"),
    ({}, r"is missing \(found: none\)"),
    ({"prompt": "p", "chosen": "a", "rejected": None}, "column 'rejected' is neither"),
    ({"prompt": "p", "chosen": "a", "rejected": " \n"}, "column 'rejected' is empty"),
    ({"prompt": [], "chosen": "a", "rejected": "b"}, "column 'prompt' is neither"),
    ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "without 'role' and"),
    ({"prompt": "p", "chosen": [{"role": "a", "content": "a"}], "rejected": "b"}, "mix strings"),
]


@pytest.mark.parametrize(("row", "reason"), WRONG)
def test_a_row_that_is_no_pair_is_told_by_column(row: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        PreferencePair.from_row(row)


def test_the_plain_text_of_messages_has_no_separators() -> None:
    assert plain_text((Message("user", "a"), Message("assistant", "b"))) == "ab"
    assert plain_text("ab") == "ab"


CALL = {"type": "function", "function": {"name": "look", "arguments": {"z": 1, "a": [None]}}}
SPOKEN = Message("assistant", "", {"content": None, "tool_calls": [CALL]})


def test_a_turn_of_role_and_content_is_what_it_was() -> None:
    turn = Message("user", "hi")
    assert turn == ("user", "hi")
    assert hash(turn) == hash(("user", "hi"))
    assert json.dumps(turn) == '["user", "hi"]'
    role, content = turn
    assert (role, content, turn.more) == ("user", "hi", {})
    assert turn._asdict() == turn.to_json() == {"role": "user", "content": "hi"}
    assert repr(turn) == "Message(role='user', content='hi')"


def test_a_turn_holds_further_keys_that_nobody_can_change() -> None:
    assert SPOKEN.to_json() == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert (SPOKEN.role, SPOKEN.content) == ("assistant", "")
    SPOKEN.more["tool_calls"].clear()
    assert SPOKEN.more["tool_calls"] == [CALL]
    assert Message("assistant", "") != SPOKEN
    assert len({SPOKEN, copy.deepcopy(SPOKEN), pickle.loads(pickle.dumps(SPOKEN))}) == 1
    assert SPOKEN._replace(content="x").more == SPOKEN.more
    assert "tool_calls" in repr(SPOKEN)
    assert not is_blank((SPOKEN,))
    assert is_blank((Message("assistant", " ", {"tool_calls": []}),))


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED, YES, NO = said("user", "is it so?"), said("assistant", "yes"), said("assistant", "no")
TURNS = PreferencePair.from_texts(prompt="is it so?", chosen="yes", rejected="no")
DIALOGUES = {"chosen": [ASKED, YES], "rejected": [ASKED, NO]}
HEAD = "\n\nHuman: is it so?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "origin"),
    [
        ({"prompt": [ASKED], "chosen": [YES], "rejected": [NO]}, "row"),
        (DIALOGUES, "beginning"),
        ({"prompt": None, **DIALOGUES}, "beginning"),
        ({"prompt": "is it so?", **DIALOGUES}, "beginning"),
        ({"prompt": "<user> is  it so? <assistant>", **DIALOGUES}, "beginning"),
        ({"prompt": "is it so?", "chosen": [YES], "rejected": [NO]}, "row"),
        ({"prompt": [ASKED], **DIALOGUES}, "repetition"),
        ({"prompt": [ASKED], "chosen": "yes", "rejected": "no"}, "row"),
        ({"prompt": [ASKED], "chosen": "is it so?yes", "rejected": "is it so?no"}, "repetition"),
    ],
)
def test_every_form_of_a_row_is_read_as_the_same_pair(row: dict[str, Any], origin: str) -> None:
    pair = PreferencePair.from_row(row)
    assert pair == TURNS
    assert pair.prompt_from == origin
    assert PreferencePair.from_row(pair.to_row()) == pair


@pytest.mark.parametrize(
    ("row", "origin"),
    [
        ({"prompt": HEAD, "chosen": " yes", "rejected": " no"}, "row"),
        ({"prompt": HEAD, "chosen": HEAD + " yes", "rejected": HEAD + " no"}, "repetition"),
        (
            {"prompt": HEAD, "chosen": HEAD.strip() + " yes", "rejected": HEAD.strip() + " no"},
            "repetition",
        ),
        ({"chosen": HEAD + " yes", "rejected": HEAD + " no"}, "beginning"),
    ],
)
def test_strings_are_read_as_the_same_pair(row: dict[str, str], origin: str) -> None:
    pair = PreferencePair.from_row(row)
    assert pair == PreferencePair(HEAD, " yes", " no")
    assert pair.prompt_from == origin


def test_a_greeting_that_is_given_back_is_no_repetition() -> None:
    row = {"prompt": "Hello", "chosen": "Hello there!", "rejected": "Hello."}
    assert PreferencePair.from_row(row) == PreferencePair("Hello", "Hello there!", "Hello.")
    once = {"prompt": "is it so?", "chosen": "is it so? yes", "rejected": "no"}
    assert PreferencePair.from_row(once).chosen == "is it so? yes"


def test_pairs_made_without_a_row_are_freed_of_repetitions_too() -> None:
    asked = TURNS.prompt
    assert isinstance(asked, tuple)
    made = PreferencePair(asked, asked + TURNS.chosen, asked + TURNS.rejected)  # type: ignore[operator]
    assert without_repetition(made) == TURNS
    assert without_repetition(TURNS) is TURNS


def test_what_the_template_is_told_is_kept_as_text() -> None:
    told = {"tools": [CALL], "chat_template_kwargs": {"thinking": False}}
    pair = PreferencePair.from_row(TURNS.to_row() | told)
    assert pair.tools == json.dumps([CALL])
    assert pair.template_options == '{"thinking": false}'
    assert pair != TURNS
    assert PreferencePair.from_row(pair.to_row()) == pair
    texts = {name: json.dumps(value) for name, value in told.items()}
    assert PreferencePair.from_row(TURNS.to_row() | texts) == pair
    assert PreferencePair.from_row(TURNS.to_row() | {"tools": None}) == TURNS
    assert hash(pair) != hash(TURNS)


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"chosen": [YES], "rejected": [NO]}, "begin with nothing that they share"),
    ({"chosen": "yes", "rejected": "no"}, "begin with nothing that they share"),
    ({"chosen": "a b ", "rejected": "a b c"}, "'chosen' says nothing beyond what both begin"),
    ({"question": "q", "chosen": "it is", "rejected": "it was"}, "if 'question' is meant, give it"),
    ({"prompt": "why?", **DIALOGUES}, "'prompt' says something else than what both dialogues"),
    ({"prompt": [said("system", "s")], **DIALOGUES}, "'chosen' begins with a turn of 'user'"),
    ({"prompt": [ASKED], "chosen": [ASKED, YES], "rejected": [NO]}, "begins with a turn of 'user'"),
    ({"prompt": [ASKED], **DIALOGUES, "chosen": [ASKED, said("a", " ")]}, "'chosen' repeats the p"),
    ({"prompt": HEAD, "chosen": HEAD + "\n", "rejected": HEAD + " no"}, "says nothing more"),
    ({"prompt": [ASKED], "chosen": [said("assistant", None)], "rejected": [NO]}, "without 'role'"),
    ({"prompt": [ASKED], "chosen": [said("a", [{"text": "x"}])], "rejected": [NO]}, "list of par"),
    ({**DIALOGUES, "tools": "look"}, "column 'tools' is no JSON text"),
    ({**DIALOGUES, "tools": {"a": 1}}, "column 'tools' is no JSON text of a list of objects"),
    ({**DIALOGUES, "tools": [1]}, "column 'tools' is no JSON text of a list of objects"),
    ({**DIALOGUES, "chat_template_kwargs": [1]}, "'chat_template_kwargs' is no JSON text of an ob"),
    ({**DIALOGUES, "chat_template_kwargs": {"tokenize": 1}}, "sets 'tokenize', which no row may"),
    ({**DIALOGUES, "chat_template_kwargs": {"x": deep(101)}}, "nested more than 100 levels deep"),
    ({**DIALOGUES, "chat_template_kwargs": {"x": {1, 2}}}, "holds what JSON does not"),
    ({"prompt": "p", "chosen": "a", "rejected": "b", "tools": [CALL]}, "'tools' is for a chat tem"),
    ({"prompt": "p", "chosen": str([YES]), "rejected": "b"}, "is the text of a list of messages"),
    ({**DIALOGUES, "images": ["a.png"]}, "'images' shows a picture"),
]


@pytest.mark.parametrize(("row", "reason"), REFUSED)
def test_a_row_that_cannot_mean_one_thing_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as told:
        PreferencePair.from_row(row)
    assert "\n" not in str(told.value)
