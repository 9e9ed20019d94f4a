"""Two versions side by side: tiny vectors with records made by hand."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from prefreg import RegistryError
from prefreg.checkpoints import BaseModel
from prefreg.composition.resolve import identify
from prefreg.evaluation.compare import Comparison, compare_versions
from prefreg.registry import Access, NewVersion, Store
from prefreg.vectors.lowrank import Factors, write_low_rank

Add = Callable[..., None]
Compare = Callable[..., Comparison]
WEIGHT = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "base")


@pytest.fixture
def add(tmp_path: Path, base: BaseModel) -> Add:
    """Add a version of the axis helpful: a difference, or factors, with a record."""

    def add_version(
        phi: Mapping[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        on: BaseModel = base,
        **others: Any,
    ) -> None:
        blob = tmp_path / "blob"
        low_rank = isinstance(next(iter(phi.values())), Factors)
        write_low_rank(phi, blob) if low_rank else tiny.store(phi, blob)
        kind = "low-rank" if low_rank else "dense"
        new = NewVersion("helpful", (), kind, "F32", identify(on), metadata or {}, **others)
        with Store.open(tmp_path / "r.db", write=True) as store:
            store.add(new, blob)
        blob.unlink()

    return add_version


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Compare versions of helpful by number."""
    access = Access(tmp_path / "r.db")
    return lambda *numbers: compare_versions(access, *(("helpful", str(n)) for n in numbers))


def test_every_difference_is_told_once_in_its_group(
    add: Add, compare: Compare, base: BaseModel
) -> None:
    phi = tiny.random_phi(base, seed=1)
    first = {
        "data": {"source": "a", "fingerprint": "f1", "audit": {"pairs": 10}},
        "training": {"seed": 0, "settings": {"beta": 0.1}},
        "poles": {"positive": {"accuracy": 0.9}},
        "geometry": {"norm": 1.0},
        "plugin": {"version": "1"},
        "empty": {},
    }
    second = {
        "data": {"source": "b", "fingerprint": "f2", "audit": {"pairs": 10}},
        "training": {"seed": 1, "settings": {"beta": 0.2, "more": None}},
        "poles": {"positive": {"accuracy": 0.8}},
        "geometry": {"norm": 1.0},
        "plugin": {"version": "2"},
        "empty": {},
    }
    add(phi, first, note="one")
    add(phi, second, note="one", tags=("t",))
    found = compare(1, 2)
    told = [(each.group, each.field, each.first, each.second) for each in found.differences]
    assert [each for each in told if each[1] != "created"] == [
        ("version", "tags", [], ["t"]),
        ("data", "data.source", "a", "b"),
        ("settings", "training.settings.beta", 0.1, 0.2),
        ("seeds", "training.seed", 0, 1),
        ("metrics", "poles.positive.accuracy", 0.9, 0.8),
        ("hashes", "data.fingerprint", "f1", "f2"),
        ("plugin", "plugin.version", "1", "2"),
    ]
    assert found.agreeing == ("base", "geometry")
    assert found.cosine == pytest.approx(1, abs=1e-12)


def test_the_newest_measurement_of_a_kind_is_compared(
    add: Add, compare: Compare, base: BaseModel, tmp_path: Path
) -> None:
    for _ in range(2):
        add(tiny.random_phi(base, seed=1))
    with Store.open(tmp_path / "r.db", write=True) as store:
        for number, value in ((1, 1), (1, 2), (2, 3)):
            store.measure("helpful", number, "score", {"m": value}, "p")
    told = [(each.field, each.first, each.second) for each in compare(1, 2).differences]
    assert ("measurements.score.m", 2, 3) in told


def test_the_cosine_is_that_of_the_vectors(add: Add, compare: Compare, base: BaseModel) -> None:
    phi = tiny.random_phi(base, seed=1)
    add(phi)
    add({name: -2 * tensor for name, tensor in phi.items()})
    assert compare(1, 2).cosine == pytest.approx(-1, abs=1e-12)


def test_a_low_rank_vector_is_zero_elsewhere(add: Add, compare: Compare, base: BaseModel) -> None:
    phi = tiny.random_phi(base, seed=1)
    left, right = torch.ones(32, 1), torch.linspace(0, 1, 32).reshape(1, 32)
    add(phi)
    add({WEIGHT: Factors(left, right)})
    whole = torch.cat([tensor.double().flatten() for tensor in phi.values()])
    part = torch.cat(
        [
            ((left @ right) if name == WEIGHT else torch.zeros_like(tensor)).double().flatten()
            for name, tensor in phi.items()
        ]
    )
    expected = float(whole @ part / (whole.norm() * part.norm()))
    assert compare(1, 2).cosine == pytest.approx(expected, rel=1e-6)


def test_why_there_is_no_cosine_is_told(
    add: Add, compare: Compare, base: BaseModel, tmp_path: Path
) -> None:
    other = tiny.in_base(lambda: tiny.llama(tied=False, seed=1), tmp_path / "other")
    phi = tiny.random_phi(base, seed=1)
    add(phi)
    add(phi, on=other)
    add({name: torch.zeros_like(tensor) for name, tensor in phi.items()})
    found = compare(1, 2)
    assert (found.cosine, found.reason) == (None, "the vectors belong to different bases")
    groups = {(each.group, each.field) for each in found.differences}
    assert {("base", "base.name"), ("hashes", "base.weights")} <= groups
    assert compare(1, 3).reason == "a vector is zero"


def test_an_unknown_version_is_told(add: Add, compare: Compare, base: BaseModel) -> None:
    add(tiny.random_phi(base, seed=1))
    with pytest.raises(RegistryError, match="Version 2 of axis 'helpful' does not exist"):
        compare(1, 2)
