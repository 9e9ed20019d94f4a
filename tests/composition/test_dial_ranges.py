"""What is kept of dials: tiny vectors with measurements made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from prefreg import RegistryError, UsageError
from prefreg.checkpoints import BaseModel
from prefreg.composition.resolve import (
    CALIBRATION,
    RANGE,
    identify,
    range_warnings,
    resolve_stored,
    translate,
)
from prefreg.registry import Access, NewVersion, Store
from prefreg.terms import as_terms

Keep = Callable[..., None]


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "base")


@pytest.fixture
def access(tmp_path: Path, base: BaseModel) -> Access:
    """Return a registry with helpful@1, helpful@2 and harmless@1."""
    blob = tiny.store(tiny.random_phi(base, seed=1), tmp_path / "blob")
    with Store.open(tmp_path / "r.db", write=True) as store:
        for axis in ("helpful", "helpful", "harmless"):
            aliases = ("safe",) if axis == "harmless" else ()
            geometry = {"norm": 2.0, "positive_norm": 1.0, "negative_norm": 0.5}
            store.add(
                NewVersion(axis, aliases, "dense", "F32", identify(base), {"geometry": geometry}),
                blob,
            )
    return Access(tmp_path / "r.db")


@pytest.fixture
def keep(access: Access) -> Keep:
    def measure(axis: str, number: int, kind: str, value: Any) -> None:
        with access.changing() as store:
            store.measure(axis, number, kind, value, "by hand")

    return measure


def reach(low: float, high: float, reason: str | None = None) -> dict[str, Any]:
    return {"low": low, "high": high, "below": {"reason": None}, "above": {"reason": reason}}


def scales(positive: float | None, negative: float | None, goal: str = "1 unit") -> dict[str, Any]:
    return {"goal": goal, "positive": {"eta": positive}, "negative": {"eta": negative}}


def warned(access: Access, *terms: str) -> list[str]:
    with access.reading() as store:
        return range_warnings(resolve_stored(store, as_terms(terms)))


def raw(access: Access, *terms: str) -> list[str]:
    return [str(term) for term in translate(access, as_terms(terms), None)]


def test_terms_beyond_their_range_are_warned_of(access: Access, keep: Keep) -> None:
    keep("helpful", 2, RANGE, reach(-1, 2.5, "5% of the answers are malformed at 3"))
    assert warned(access, "helpful:2.5", "harmless:4") == []
    assert warned(access, "helpful:-1", "harmless:0") == []
    assert warned(access, "helpful:3", "harmless:1") == [
        "helpful@2 at 3 is outside its range of -1 to 2.5: 5% of the answers are malformed at 3."
    ]
    assert warned(access, "helpful:-1.5") == [
        "helpful@2 at -1.5 is outside its range of -1 to 2.5, beyond which nothing was measured."
    ]
    assert warned(access, "helpful@1:3") == []


def test_without_a_range_the_length_of_the_poles_tells_what_is_far(access: Access) -> None:
    assert warned(access, "helpful:4", "harmless:-2") == []
    assert warned(access, "helpful:30", "harmless:-3") == [
        "harmless@1 at -3 is 12 times as far from the base as its trained pole, so its KL is about "
        "144 times the pole's. `prefreg range harmless@1` measures how far it may go.",
        "helpful@2 at 30 is 60 times as far from the base as its trained pole, so its KL is about "
        "3.6e+03 times the pole's. `prefreg range helpful@2` measures how far it may go.",
    ]


def test_the_newest_range_counts(access: Access, keep: Keep) -> None:
    keep("helpful", 2, RANGE, reach(-1, 1))
    keep("helpful", 2, RANGE, reach(-4, 4))
    assert warned(access, "helpful:3") == []


def test_calibrated_terms_become_raw_ones(access: Access, keep: Keep) -> None:
    keep("helpful", 2, CALIBRATION, scales(0.5, -2.0))
    keep("harmless", 1, CALIBRATION, scales(4.0, None))
    assert raw(access, "helpful:3", "safe:0.5") == ["harmless@1:2", "helpful@2:1.5"]
    assert raw(access, "helpful:-0.5") == ["helpful@2:-1"]
    assert raw(access, "helpful:0", "harmless:0") == ["harmless@1:0", "helpful@2:0"]


def test_what_is_not_calibrated_is_refused(access: Access, keep: Keep) -> None:
    keep("harmless", 1, CALIBRATION, scales(4.0, None))
    with pytest.raises(RegistryError, match=r"helpful@2 is not calibrated. Run `prefreg calibrate"):
        raw(access, "helpful:1")
    with pytest.raises(RegistryError, match="harmless@1 has no scale on its − side"):
        raw(access, "harmless:-1")


def test_units_are_not_mixed(access: Access, keep: Keep) -> None:
    keep("helpful", 2, CALIBRATION, scales(1.0, -1.0, "1 of effect"))
    keep("harmless", 1, CALIBRATION, scales(1.0, -1.0, "0.5 nats of KL"))
    with pytest.raises(UsageError, match="calibrated to different effects"):
        raw(access, "helpful:1", "harmless:1")
    assert raw(access, "helpful:1") == ["helpful@2:1"]
