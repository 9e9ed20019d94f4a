"""Finding versions, and the tags by which they are found."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefreg.errors import RegistryError, UsageError
from prefreg.registry import BaseIdentity, Store, VersionRecord
from prefreg.registry.listing import Query, parse_metric

Add = Callable[..., VersionRecord]
Find = Callable[..., list[str]]


@pytest.fixture
def filled(store: Store, add: Add, base: Callable[..., BaseIdentity]) -> Store:
    """Three versions that share as little as possible."""
    strong = {"poles": {"plus": {"accuracy": 0.9}, "minus": {"accuracy": 0.6}}}
    add(store, "helpful", note="First Try, small", tags=("good",), metadata=strong)
    add(store, "helpful", base=base("org/Big"), note="second", tags=("good", "paper/v1"))
    weak = {"poles": {"plus": {"accuracy": 0.4, "steps": 80, "failed": True}}}
    add(store, "verbosity", aliases=("verbose",), metadata=weak)
    store.set_alias("helpful", 2, "stable")
    store.measure("helpful", 2, "calibration", {"range": {"high": 1.5}}, "p")
    store.measure("verbosity", 1, "score", 3, "p")
    return store


@pytest.fixture
def find(filled: Store) -> Find:
    """Search: `find(tags=("good",))`."""

    def search(text: str | None = None, *, metrics: tuple[str, ...] = (), **others: Any) -> Any:
        query = Query(text, metrics=tuple(map(parse_metric, metrics)), **others)
        return [str(found.version) for found in filled.search(query)]

    return search


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["helpful@1", "helpful@2", "verbosity@1"]),
        ("helpful", ["helpful@1", "helpful@2"]),
        ("VERBOSE", ["verbosity@1"]),
        ("stable", ["helpful@2"]),
        ("small first", ["helpful@1"]),
        ("big good", ["helpful@2"]),
        ("first second", []),
    ],
)
def test_every_word_must_occur_somewhere(find: Find, text: str, expected: list[str]) -> None:
    assert find(text) == expected


def test_tags_notes_and_bases_must_all_fit(find: Find, base: Callable[..., BaseIdentity]) -> None:
    assert find(tags=("good",)) == ["helpful@1", "helpful@2"]
    assert find(tags=("good", "paper/v1")) == ["helpful@2"]
    assert find(tags=("Good",)) == []
    assert find(note="try first") == ["helpful@1"]
    assert find(note="good") == []
    assert find(base="big") == ["helpful@2"]
    assert find(base=base("org/Big").weights[:10]) == ["helpful@2"]
    assert find("helpful", tags=("good",), note="second", base="org/big") == ["helpful@2"]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ("accuracy>=0.9", ["helpful@1"]),
        ("accuracy>.9", []),
        ("accuracy < 0.5", ["verbosity@1"]),
        ("plus.accuracy<=0.6", ["verbosity@1"]),
        ("poles.minus.accuracy=0.6", ["helpful@1"]),
        ("inus.accuracy=0.6", []),
        ("steps==80", ["verbosity@1"]),
        ("failed>=1", []),
        ("calibration.range.high>1", ["helpful@2"]),
        ("high=15e-1", ["helpful@2"]),
        ("score>=3", ["verbosity@1"]),
        ("nothing>0", []),
    ],
)
def test_a_bound_is_on_a_number_of_that_name(find: Find, bound: str, expected: list[str]) -> None:
    assert find(metrics=(bound,)) == expected


def test_every_bound_must_hold_and_the_numbers_are_told(filled: Store, find: Find) -> None:
    assert find(metrics=("accuracy>0.3", "steps>0")) == ["verbosity@1"]
    (found,) = filled.search(Query(metrics=(parse_metric("accuracy>0.5"),)))
    assert found.metrics == {"poles.plus.accuracy": 0.9, "poles.minus.accuracy": 0.6}


@pytest.mark.parametrize(
    "bound", ["accuracy", "accuracy>", ">1", "a=>1", "a>b", "a>1 b", "", "a>1>2"]
)
def test_a_malformed_bound_is_refused(bound: str) -> None:
    with pytest.raises(UsageError, match="is no condition on a metric: write NAME"):
        parse_metric(bound)


def test_tags_come_and_go(filled: Store, find: Find) -> None:
    assert filled.tag("verbose", 1, ["b", "a", "b"]).tags == ("a", "b")
    assert filled.tag("verbosity", 1, ["a", "c"]).tags == ("a", "b", "c")
    assert filled.tag("verbosity", 1, ["a", "x"], remove=True).tags == ("b", "c")
    assert find(tags=("c",)) == ["verbosity@1"]
    filled.remove("verbosity", 1)
    assert find(tags=("c",)) == []
    assert filled.verify() == []


@pytest.mark.parametrize("tag", ["", "a b", "-a", "a,b", "a\n"])
def test_a_malformed_tag_is_refused(filled: Store, add: Add, find: Find, tag: str) -> None:
    with pytest.raises(UsageError, match="is no tag"):
        filled.tag("helpful", 1, ["fine", tag])
    with pytest.raises(UsageError, match="is no tag"):
        add(filled, "helpful", tags=(tag,))
    with pytest.raises(UsageError, match="is no tag"):
        find(tags=(tag,))
    assert filled.resolve("helpful", "1").tags == ("good",)
    assert len(filled.versions("helpful")) == 2


def test_a_tag_needs_a_version(filled: Store) -> None:
    with pytest.raises(RegistryError, match="Version 7 of axis 'helpful' does not exist"):
        filled.tag("helpful", 7, ["fine"])


def test_a_registry_from_before_tags_has_none(path: Path, filled: Store) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE tags; UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    with Store.open(path, write=False) as old:
        assert old.search(Query(tags=("good",))) == []
        assert len(old.search(Query("helpful"))) == 2
