"""What messages are made of."""

from prefreg.errors import DataError, did_you_mean, listed, reason, unreadable


class MuteError(Exception):
    """An exception whose message cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


def test_a_reason_is_one_printable_line() -> None:
    assert reason(MuteError()) == "MuteError"
    assert reason(ValueError("a\n\tb\x1b[31m \ud800 c")) == "ValueError: a b [31m c"
    assert len(reason(ValueError("x" * 10_000))) < 500
    assert reason(DataError("what is known")) == "what is known"


def test_long_lists_are_cut() -> None:
    assert listed("gfedcba") == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_a_name_is_guessed_only_where_one_is_close() -> None:
    assert did_you_mean("helpfull", ["verbosity", "helpful"]) == " Did you mean 'helpful'?"
    assert did_you_mean("xyz", ["verbosity", "helpful"]) == ""


def test_a_file_that_cannot_be_read_is_named_with_the_reason() -> None:
    error = unreadable("a.json", FileNotFoundError(2, "No such file"), DataError)
    assert isinstance(error, DataError)
    assert str(error) == "a.json cannot be read: No such file."
    assert str(unreadable("a", EOFError("it ends"), DataError)) == "a cannot be read: it ends."
