import pytest

from prefreg import Axis, AxisError, DataError, Message, PreferencePair
from prefreg.axes.axis import plain_text

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
