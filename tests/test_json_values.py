import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from prefreg.json_values import JsonFields, finite, parse_json, to_json


class Turn(NamedTuple):
    role: str
    at: Path


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Part(JsonFields):
    turns: tuple[Turn, ...]
    of: "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Own:
    secret: int

    def to_json(self) -> dict[str, int]:
        return {"shown": self.secret + 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (1.5, 1.5),
        ("text", "text"),
        ((1, [2, {"a": (3,)}]), [1, [2, {"a": [3]}]]),
        (Path("a/b"), "a/b"),
        (Colour.RED, "red"),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01T12:00:00+00:00"),
        (numpy.float64(0.5), 0.5),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (Turn("user", Path("x")), {"role": "user", "at": "x"}),
        (Own(1), {"shown": 2}),
        ({"of": Own(1)}, {"of": {"shown": 2}}),
    ],
)
def test_a_value_becomes_what_json_holds(value: object, expected: object) -> None:
    found = to_json(value)
    assert found == expected
    assert json.loads(json.dumps(found)) == expected


def test_an_object_is_its_fields_in_their_order_all_the_way_down() -> None:
    part = Part((Turn("user", Path("x")),), {"own": Own(1)})
    assert list(part.to_json()) == ["turns", "of"]
    assert part.to_json() == {"turns": [{"role": "user", "at": "x"}], "of": {"own": {"shown": 2}}}


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, '{"a":' * 100_000, "1" * 5000])
def test_whatever_is_wrong_with_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|nested|Expecting|decode|digits"):
        parse_json(text)


def test_json_is_read() -> None:
    assert parse_json(b'{"a": [1, "\xc3\xa9"]}') == {"a": [1, "é"]}


def test_numbers_that_json_has_not_are_null() -> None:
    value = {"a": [1.5, math.nan, (math.inf,)], "b": {"c": -math.inf}, "d": "nan"}
    assert finite(value) == {"a": [1.5, None, [None]], "b": {"c": None}, "d": "nan"}
