"""Sums in memory against the arithmetic that they stand for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefreg.composition.compiled import MOST_TERMS
from prefreg.composition.engine import compose_tensor
from prefreg.composition.sums_in_memory import CompiledSums

NARROW, WIDE = torch.bfloat16, torch.float32
Eta = st.floats(-4, 4, width=32).filter(lambda eta: abs(eta) > 1e-3)


@settings(max_examples=25)
@given(
    st.sampled_from([NARROW, WIDE]),
    st.lists(st.tuples(Eta, st.sampled_from([NARROW, WIDE])), min_size=1, max_size=MOST_TERMS),
    st.sampled_from([1, 7, 16384, 16385]),
)
def test_every_bit_is_that_of_the_plain_arithmetic(
    dtype: torch.dtype, terms: list[tuple[float, torch.dtype]], count: int
) -> None:
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(count, generator=generator).to(dtype)
    base[0] = -0.0
    given_terms = [
        (eta, torch.randn(count, generator=generator).to(kind) * 0.01) for eta, kind in terms
    ]
    out = torch.empty_like(base)
    sums = CompiledSums()
    assert sums.takes(out, len(terms))
    sums.write(out, base, given_terms)
    assert not sums.spoilt
    wanted = compose_tensor(base, [(eta, phi.float()) for eta, phi in given_terms], dtype)
    assert torch.equal(out.view(torch.uint8), wanted.view(torch.uint8))


def test_threads_share_a_large_weight() -> None:
    base, phi, out = torch.randn(600_000), torch.randn(600_000), torch.empty(600_000)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sums = CompiledSums()
        sums.write(out, base, [(0.5, phi)])
        assert not sums.spoilt
    finally:
        torch.set_num_threads(before)
    assert torch.equal(out, compose_tensor(base, [(0.5, phi)], WIDE))


@pytest.mark.parametrize("dtype", [NARROW, WIDE])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.4e38])
def test_what_is_not_finite_is_seen(dtype: torch.dtype, bad: float) -> None:
    phi = torch.zeros(20_000)
    phi[17_000] = bad
    sums = CompiledSums()
    sums.write(torch.empty(20_000, dtype=dtype), torch.ones(20_000, dtype=dtype), [(2.0, phi)])
    assert sums.spoilt
