import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.errors import VectorError
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.algebra import cosine, dot, gram, norm
from prefreg.vectors.dense import write_dense
from prefreg.vectors.lowrank import Factors, LowRankVector, write_low_rank
from prefreg.vectors.tensors import MemoryTensors

Numbers = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)


def vector(values: list[float]) -> MemoryTensors:
    numbers = torch.tensor(values, dtype=torch.float32)
    return MemoryTensors({"a": numbers[:2], "b": numbers[2:].reshape(1, 2)})


def test_geometry_of_vectors_worked_by_hand() -> None:
    one, other = vector([1.0, 2.0, 2.0, 0.0]), vector([0.0, 3.0, 0.0, 4.0])
    assert norm(one) == 3.0
    assert norm(other) == 5.0
    assert dot(one, other) == 6.0
    assert cosine(one, other) == 6.0 / 15.0


def test_sums_are_taken_in_double_precision() -> None:
    # In float32 a billion and one is a billion.
    assert dot(vector([1e9, 1.0, 0, 0]), vector([1.0, 1.0, 0, 0])) == 1e9 + 1


@given(Numbers, Numbers)
def test_the_inner_product_knows_no_order_and_turns_with_a_sign(
    a: list[float], b: list[float]
) -> None:
    one, other, turned = vector(a), vector(b), vector([-value for value in a])
    assert dot(one, other) == dot(other, one) == -dot(turned, other)


@given(Numbers, st.floats(-8, 8, width=32))
def test_scaling_scales_the_length(a: list[float], eta: float) -> None:
    scaled = vector([eta * value for value in a])
    expected = abs(eta) * norm(vector(a))
    assert math.isclose(norm(scaled), expected, rel_tol=1e-6, abs_tol=1e-30)


def test_a_tensor_that_is_not_held_counts_as_zeros() -> None:
    whole = vector([1.0, 2.0, 3.0, 4.0])
    part = MemoryTensors({"b": torch.tensor([[10.0, 100.0]])})
    assert dot(whole, part, sparse=True) == dot(part, whole, sparse=True) == 430.0
    with pytest.raises(VectorError, match="'a'"):
        dot(whole, part)


def test_the_cosine_with_zeros_is_refused() -> None:
    with pytest.raises(VectorError, match="not defined"):
        cosine(vector([0.0] * 4), vector([1.0] * 4))


def test_vectors_of_other_names_or_shapes_are_refused() -> None:
    other = MemoryTensors({"a": torch.zeros(3), "c": torch.zeros(1)})
    told = r"second vector lacks 'b'; .*first vector lacks 'c'; .*shapes: 'a \[2\] against \[3\]'"
    with pytest.raises(VectorError, match=told):
        dot(vector([1.0] * 4), other)


def test_integers_have_no_direction() -> None:
    with pytest.raises(VectorError, match="'a' are not float tensors"):
        MemoryTensors({"a": torch.tensor([1])})


def dense(folder: Path, name: str, **tensors: torch.Tensor) -> Vector:
    write_dense(MemoryTensors(tensors), folder / name)
    return open_vector((folder / name).read_bytes())


def low_rank(folder: Path, seed: int, rank: int, *, names: str = "qk") -> LowRankVector:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(
            torch.randn(7, rank, generator=generator), torch.randn(rank, 5, generator=generator)
        )
        for name in names
    }
    path = folder / f"{seed}.safetensors"
    write_low_rank(factors, path)
    return LowRankVector.open(path.read_bytes())


def test_inner_products_worked_by_hand(tmp_path: Path) -> None:
    one = dense(tmp_path, "one", a=torch.tensor([1.0, 2.0]), b=torch.tensor([3.0]))
    other = dense(tmp_path, "other", a=torch.tensor([4.0, -1.0]), b=torch.tensor([0.5]))
    found = gram([one, other])
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [[5, 2], [2, 17]]
    assert found["b"].tolist() == [[9, 1.5], [1.5, 0.25]]


@given(st.integers(0, 100), st.integers(1, 4), st.integers(1, 4))
def test_factors_meet_as_their_products_do(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rank: int, other: int
) -> None:
    folder = tmp_path_factory.mktemp("factors")
    vectors = [low_rank(folder, seed, rank), low_rank(folder, seed + 1, other)]
    for name, products in gram(vectors).items():
        one, two = (vector.tensor(name).double() for vector in vectors)
        expected = torch.tensor(
            [[(one * one).sum(), (one * two).sum()], [(one * two).sum(), (two * two).sum()]],
            dtype=torch.float64,
        )
        torch.testing.assert_close(products, expected, rtol=1e-5, atol=1e-4)


def test_factors_are_never_multiplied_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("a product was made")

    vectors = [low_rank(tmp_path, seed, 2) for seed in (0, 1)]
    monkeypatch.setattr("prefreg.vectors.lowrank.multiply", refuse)
    assert gram(vectors)["q"].shape == (2, 2)


def test_a_tensor_that_a_vector_lacks_counts_as_zero(tmp_path: Path) -> None:
    whole = dense(tmp_path, "whole", q=torch.ones(7, 5), n=torch.ones(3))
    thin = low_rank(tmp_path, 0, 2, names="q")
    found = gram([whole, thin])
    assert found["n"].tolist() == [[3, 0], [0, 0]]
    assert found["q"][0, 1].item() == pytest.approx(thin.tensor("q").double().sum().item())


def test_blocks_give_what_the_whole_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [
        dense(tmp_path, str(place), a=torch.randn(11, 13, generator=generator))
        for place in range(3)
    ]
    monkeypatch.setattr("prefreg.vectors.algebra.BLOCK_ELEMENTS", 10)
    products = gram(vectors)["a"]
    for row, one in enumerate(vectors):
        for column, other in enumerate(vectors):
            assert products[row, column].item() == pytest.approx(dot(one, other), rel=1e-12)


def test_vectors_of_two_bases_are_refused(tmp_path: Path) -> None:
    vectors = [dense(tmp_path, str(size), a=torch.ones(size)) for size in (2, 3)]
    with pytest.raises(VectorError, match=r"'a' has the shapes \[\(2,\), \(3,\)\]"):
        gram(vectors)
