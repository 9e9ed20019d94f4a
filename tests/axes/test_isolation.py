"""A plugin's code is kept off stdout, and what it raises gets a name."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, repeat
from typing import Any

import pytest

from prefreg import Axis, DataError, GateError, PreferencePair, Row, SourceRequest, SourceRows
from prefreg.axes import isolation
from prefreg.axes.isolation import (
    isolated,
    label_row,
    measure,
    off_stdout,
    read_source,
    switch_pair,
)

PAIR = PreferencePair("p", "a", "b")
TURNS = PreferencePair.from_texts(prompt="p", chosen="a", rejected="b")
ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
OWNED = "axis 'kind' (plugin kind of prefreg-kind 2.5)"


def axis(**parts: Any) -> Axis:
    whole = {"sources": {"rows": lambda request: [ROW]}, "label": PreferencePair.from_row}
    owner = "plugin kind of prefreg-kind 2.5"
    return Axis(name="kind", summary="", owner=owner, **(whole | parts))


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def read(source: Callable[[SourceRequest], Any]) -> list[Row]:
    return list(read_source(axis(sources={"rows": source}), "rows", SourceRequest()).rows)


def two_rows_and_an_end(request: SourceRequest) -> Iterator[Row]:
    yield ROW
    yield ROW
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (raising(SystemExit(3)), "failed: SystemExit: 3"),
        (two_rows_and_an_end, "failed at row 3: SystemExit: 3"),
        (raising(OSError("disk\nfull")), "failed: OSError: disk full"),
        (raising(GateError("no gate")), "failed: no gate"),
        (lambda request: None, "failed: it returned a NoneType, not rows"),
        (lambda request: "rows", "failed: it returned a str, not rows"),
        (lambda request: SourceRows(7, "hub"), "failed: it returned a int, not rows"),
        (lambda request: SourceRows([], 7), "failed: the origin and revision of its SourceRows"),
    ],
)
def test_a_source_that_fails_is_named(source: Callable[[SourceRequest], Any], told: str) -> None:
    with pytest.raises(DataError) as caught:
        read(source)
    assert str(caught.value).startswith(f"The source 'rows' of {OWNED} {told}")


def test_a_source_without_end_needs_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MOST_ROWS", 3)
    assert read(lambda request: [ROW] * 3) == [ROW] * 3
    with pytest.raises(DataError, match=r"kind 2.5\) has brought 3 rows and goes on: .* `limit=`"):
        read(lambda request: repeat(ROW))
    endless = axis(sources={"rows": lambda request: repeat(ROW)})
    found = read_source(endless, "rows", SourceRequest(limit=5)).rows
    assert list(islice(found, 5)) == [ROW] * 5


class Hostile(dict[str, Any]):
    """A row that ends the program when it is looked at."""

    def __iter__(self) -> Iterator[str]:
        raise SystemExit

    def __getitem__(self, name: str) -> Any:
        raise SystemExit


@pytest.mark.parametrize(
    ("call", "whose", "told"),
    [
        (
            lambda: label_row(axis(label=raising(SystemExit())), ROW, 7),
            "label rule",
            "row 7 (columns: prompt, chosen, rejected): SystemExit",
        ),
        (
            lambda: label_row(axis(label=lambda row: row["prompt"]), Hostile(), 7),
            "label rule",
            "row 7 (columns: unreadable): SystemExit",
        ),
        (
            lambda: label_row(axis(label=lambda row: PreferencePair("p", "a", "b", 7)), ROW, 7),
            "label rule",
            "row 7 (columns: prompt, chosen, rejected) whose group is a int",
        ),
        (
            lambda: label_row(
                axis(label=lambda row: PreferencePair.from_texts(prompt="", chosen=7, rejected="")),
                {},
                7,
            ),
            "label rule",
            "no string: Message(role='assistant', content=7)",
        ),
        (
            lambda: label_row(
                axis(label=lambda row: PreferencePair("p", "a", "b", tools="look")), ROW, 7
            ),
            "label rule",
            "row 7 (columns: prompt, chosen, rejected) whose tools are no JSON text of a list.",
        ),
        (
            lambda: label_row(
                axis(label=lambda row: replace(TURNS, rejected=TURNS.prompt + TURNS.rejected)),
                {},
                7,
            ),
            "label rule",
            "row 7 (columns: none): column 'rejected' begins with a turn of 'user', which is no",
        ),
        (
            lambda: switch_pair(axis(switch=raising(StopIteration())), PAIR, 7),
            "switch",
            "failed on pair 7: StopIteration",
        ),
        (
            lambda: measure(axis(metric=raising(SystemExit("x"))), "p", "an answer"),
            "metric",
            "the prompt 'p' with the answer 'an answer': SystemExit: x",
        ),
        (
            lambda: measure(axis(metric=lambda *_: float("nan")), "p", "an answer"),
            "metric",
            "it returned nan, not a finite number",
        ),
        (
            lambda: measure(axis(metric=lambda *_: [1]), "p", "an answer"),
            "metric",
            "TypeError: float() argument",
        ),
    ],
)
def test_a_function_that_fails_or_returns_something_else_is_named(
    call: Callable[[], object], whose: str, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        call()
    assert str(caught.value).startswith(f"The {whose} of {OWNED} ")
    assert told in str(caught.value)


def test_a_metric_may_return_whatever_is_a_number_or_none() -> None:
    assert measure(axis(metric=lambda prompt, answer: len(answer)), "p", "abc") == 3.0
    assert measure(axis(metric=lambda *_: None), "p", "it does not apply") is None


def test_an_interruption_is_the_users() -> None:
    for call in (
        lambda: read(raising(KeyboardInterrupt())),
        lambda: label_row(axis(label=raising(KeyboardInterrupt())), ROW, 1),
        lambda: switch_pair(axis(switch=raising(KeyboardInterrupt())), PAIR, 1),
        lambda: measure(axis(metric=raising(KeyboardInterrupt())), "p", "a"),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()


def test_what_is_printed_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def speak(row: Row) -> None:
        print("printed")
        os.write(1, b"written\n")

    print("before")
    label_row(axis(label=speak), ROW, 1)
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "printed\nwritten\n")


def test_stdout_comes_back_when_threads_overlap(capfd: pytest.CaptureFixture[str]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with off_stdout():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    with off_stdout():
        thread.start()
        entered.wait(10)
    print("hidden")
    leave.set()
    thread.join()
    print("seen")
    assert capfd.readouterr() == ("seen\n", "hidden\n")


def test_what_is_raised_is_told_by_its_reason() -> None:
    with pytest.raises(DataError, match=r"^it failed: ValueError$"), isolated("it failed"):
        raise ValueError
