import math
import struct

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.composition.engine import compose_tensor, require_finite
from prefreg.composition.plan import rounded_eta
from prefreg.errors import BaseModelError, UsageError, VectorError

Numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5)
Terms = st.lists(st.tuples(st.floats(-4, 4).filter(bool), Numbers), max_size=4)


def rounded(value: float) -> float:
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def reference(base: float, terms: list[tuple[float, float]]) -> float:
    # Products and sums of float32 numbers in float64, rounded to float32 after each step: the
    # product is exact before its rounding, and the sum is wide enough for the rounding to be right.
    total = base
    for eta, phi in terms:
        if rounded(eta) != 0:
            total = rounded(total + rounded(rounded(eta) * phi))
    return total


@given(Numbers, Terms)
def test_every_step_is_rounded_to_float32(
    base: list[float], terms: list[tuple[float, list[float]]]
) -> None:
    result = compose_tensor(
        torch.tensor(base), [(eta, torch.tensor(phi)) for eta, phi in terms], torch.float32
    )
    expected = [
        reference(value, [(eta, phi[i]) for eta, phi in terms]) for i, value in enumerate(base)
    ]
    assert result.numpy().tobytes() == numpy.array(expected, dtype=numpy.float32).tobytes()


def test_product_and_sum_are_not_fused() -> None:
    # (1 + 2⁻¹²)² is 1 + 2⁻¹¹ + 2⁻²⁴, which float32 rounds to 1 + 2⁻¹¹; a fused step keeps 2⁻²⁴.
    eta = 1 + 2**-12
    base, phi = torch.tensor([-(1 + 2**-11)]), torch.tensor([eta])
    assert compose_tensor(base, [(eta, phi)], torch.float32).item() == 0.0


def test_the_sum_is_rounded_once() -> None:
    # In bfloat16, 1 + 2⁻⁹ is 1 both times; in float32 the two steps add up to 1 + 2⁻⁸ + 2⁻⁹.
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    terms = [(1.0, torch.tensor([2.0**-9])), (2.0, torch.tensor([2.0**-9]))]
    assert compose_tensor(base, terms, torch.bfloat16).item() == 1 + 2**-7


def test_the_coefficient_keeps_float32_precision() -> None:
    # bfloat16 would have made .3008 of it.
    result = compose_tensor(torch.zeros(1), [(0.3, torch.ones(1))], torch.float32)
    assert result.item() == rounded(0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("eta", [0.0, -0.0, 1e-60])
def test_zero_eta_returns_the_base_bit_for_bit(dtype: torch.dtype, eta: float) -> None:
    # Adding 0 would have made 0 of −0.
    base = torch.tensor([0.1, -0.0, math.inf, math.nan, 1e-40]).to(dtype)
    result = compose_tensor(base, [(eta, torch.ones(5))], dtype)
    assert torch.equal(result.view(torch.uint8), base.view(torch.uint8))


def test_the_base_and_the_vectors_are_not_changed() -> None:
    base, phi = torch.ones(3), torch.ones(3)
    compose_tensor(base, [(2.0, phi)], torch.float32)
    assert base.tolist() == phi.tolist() == [1.0, 1.0, 1.0]


@given(Numbers, Numbers, st.floats(-4, 4).filter(bool))
def test_taking_a_vector_off_again_comes_back_within_rounding(
    base: list[float], phi: list[float], eta: float
) -> None:
    there = compose_tensor(torch.tensor(base), [(eta, torch.tensor(phi))], torch.float32)
    back = compose_tensor(there, [(-eta, torch.tensor(phi))], torch.float32)
    largest = torch.maximum(torch.tensor(base).abs(), torch.tensor(phi).abs() * abs(eta))
    assert bool(((back - torch.tensor(base)).abs() <= largest * 2**-22 + 1e-44).all())


@given(Numbers, st.lists(st.tuples(st.floats(-4, 4).filter(bool), Numbers), min_size=1, max_size=3))
def test_a_part_is_composed_like_the_whole(
    base: list[float], terms: list[tuple[float, list[float]]]
) -> None:
    vectors = [(eta, torch.tensor(phi)) for eta, phi in terms]
    whole = compose_tensor(torch.tensor(base), vectors, torch.bfloat16)
    part = compose_tensor(
        torch.tensor(base)[1:4], [(eta, phi[1:4]) for eta, phi in vectors], torch.bfloat16
    )
    assert torch.equal(whole[1:4], part)


@pytest.mark.parametrize("eta", [1e39, -1e39, math.inf, math.nan])
def test_a_coefficient_outside_float32_is_refused(eta: float) -> None:
    with pytest.raises(UsageError, match="does not fit float32"):
        rounded_eta(eta)


def test_a_vanishing_coefficient_is_zero() -> None:
    assert rounded_eta(1e-50) == 0.0


def test_overflow_names_the_tensor_and_whose_fault_it_is() -> None:
    big = torch.tensor([6e4])
    result = compose_tensor(big, [(1.0, big)], torch.float16)
    with pytest.raises(VectorError, match=r"'w' overflows float16 in this composition"):
        require_finite("w", result, big)
    with pytest.raises(BaseModelError, match="'w' of the base holds NaN or infinity"):
        require_finite("w", result, torch.tensor([math.inf]))
    require_finite("w", big, big)
