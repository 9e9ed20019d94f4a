import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.errors import VectorError
from prefreg.vectors.algebra import cosine, dot, norm
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
