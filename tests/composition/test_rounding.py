import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.composition.rounding import Rounding
from prefreg.errors import UsageError

NARROW = [torch.bfloat16, torch.float16]


def rounded(total: torch.Tensor, dtype: torch.dtype, seed: int = 0, start: int = 0) -> torch.Tensor:
    room = torch.empty_like(total, dtype=dtype)
    Rounding("stochastic", seed).round_into(room, total, "w", start)
    return room


@pytest.mark.parametrize("dtype", NARROW)
@given(st.lists(st.floats(-60000, 60000, width=16), min_size=1, max_size=20))
def test_numbers_that_the_dtype_has_stay(dtype: torch.dtype, numbers: list[float]) -> None:
    exact = torch.tensor(numbers).to(dtype)
    result = rounded(exact.float(), dtype)
    assert torch.equal(result.view(torch.int16), exact.view(torch.int16))


@pytest.mark.parametrize("dtype", NARROW)
@given(st.floats(-30000, 30000, width=32), st.integers(0, 9))
def test_others_go_to_one_of_their_two_neighbours(
    dtype: torch.dtype, number: float, seed: int
) -> None:
    result = rounded(torch.tensor([number]), dtype, seed)
    near = torch.tensor([number]).to(dtype)
    bound = torch.finfo(dtype)
    step = max(abs(near.item()) * bound.eps * 2, bound.smallest_normal * bound.eps * 2)
    assert abs(result.item() - number) <= step


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("number", [1.0003, -0.01234567, 3.1e-6])
def test_the_mean_is_right(dtype: torch.dtype, number: float) -> None:
    result = rounded(torch.full((200_000,), number), dtype).double()
    assert len(result.unique()) == 2
    spread = float(result.std()) / 200_000**0.5
    assert float(result.mean()) == pytest.approx(float(numpy.float32(number)), abs=5 * spread)


@pytest.mark.parametrize("dtype", NARROW)
def test_where_a_block_begins_does_not_matter(dtype: torch.dtype) -> None:
    total = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = rounded(total, dtype)
    assert torch.equal(whole[300:700], rounded(total[300:700], dtype, start=300))
    assert not torch.equal(whole, rounded(total, dtype, seed=1))


@pytest.mark.parametrize("dtype", NARROW)
def test_infinity_and_nan_stay_what_they_are(dtype: torch.dtype) -> None:
    result = rounded(torch.tensor([float("inf"), float("-inf"), float("nan")]), dtype)
    assert result.isfinite().tolist() == [False] * 3


def test_a_wide_dtype_is_not_rounded_at_random() -> None:
    total = torch.randn(10)
    assert torch.equal(rounded(total, torch.float32), total)


def test_an_unknown_rounding_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no rounding 'up'"):
        Rounding("up")
