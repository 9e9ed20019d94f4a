"""The one rounding, and what it leaves of the requested change."""

import math
from collections.abc import Sequence

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.composition.engine import Workspace, add_up
from prefreg.composition.rounding import Kept, Rounding, Survival, SurvivalMeter, Tally, group_of
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


def measured(
    base: torch.Tensor, addends: Sequence[torch.Tensor], dtype: torch.dtype = torch.bfloat16
) -> Tally:
    tally = Tally()
    space, ones = Workspace(torch.device("cpu")), [1.0] * len(addends)
    result = space.compose(base, addends, ones, dtype, tally)
    assert torch.equal(result, add_up(base, addends, dtype))
    return tally


def kept(gain: float, changed: float = 1.0) -> Kept:
    return Kept(changed=changed, gain=gain, norm_ratio=gain, cosine=1.0)


def test_survival_worked_by_hand() -> None:
    # At 1 the step of bfloat16 is 2⁻⁷: a change of 2⁻⁹ is lost, one of 3·2⁻⁹ becomes 4·2⁻⁹.
    base = torch.ones(4, dtype=torch.bfloat16)
    found = measured(base, [torch.tensor([2.0**-9, 3 * 2.0**-9, 2.0**-7, 0.0])]).kept()
    assert found == Kept(
        changed=round(2 / 3, 4),
        gain=round((3 * 4 + 4 * 4) / (1 + 9 + 16), 4),
        norm_ratio=round(math.sqrt((16 + 16) / (1 + 9 + 16)), 4),
        cosine=round((3 * 4 + 4 * 4) / math.sqrt((16 + 16) * (1 + 9 + 16)), 4),
    )


def test_a_wide_dtype_is_measured_against_what_was_asked_not_against_the_sum() -> None:
    # At 1 float32 steps by 2⁻²³: the sum itself has lost the first change.
    tally = measured(torch.ones(2), [torch.tensor([2.0**-25, 2.0**-20])], torch.float32)
    assert (tally.requested, tally.changed) == (2, 1)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_extreme_changes_are_measured_too(size: float) -> None:
    tally = measured(torch.zeros(3), [torch.full((3,), size)], torch.float32)
    assert tally.wanted == pytest.approx(3 * size * size)
    assert tally.kept() == kept(1.0)


def test_parts_add_up_by_group() -> None:
    meter = SurvivalMeter()
    for layer in range(3):
        meter.add(f"model.layers.{layer}.mlp.weight", Tally(4, 2, 1.0, 2.0, 0.5))
    meter.add("model.norm.weight", Tally(1, 1, 10.0, 10.0, 10.0))
    meter.add("frozen", Tally())
    found = meter.result()
    assert found is not None
    assert found.groups == {
        "model.layers.*.mlp": Kept(changed=0.5, gain=0.5, norm_ratio=0.5, cosine=1.0),
        "model.norm": kept(1.0),
    }
    assert found.gain == round(13 / 16, 4)
    assert found.unfaithful == ("model.layers.*.mlp",)
    assert set(found.to_json()) == {"changed", "gain", "norm_ratio", "cosine", "groups"}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "model.layers.*.self_attn.q_proj"),
        ("h.0.attn.c_attn.bias", "h.*.attn.c_attn"),
        ("model.layers.3.mlp.experts.7.w1.weight", "model.layers.*.mlp.experts.*.w1"),
        ("w", "w"),
    ],
)
def test_a_group_is_a_module_in_every_layer(name: str, group: str) -> None:
    assert group_of(name) == group


def test_nothing_requested_is_nothing_measured() -> None:
    meter = SurvivalMeter()
    assert meter.result() is None
    meter.add("w", measured(torch.ones(2), [torch.zeros(2)]))
    assert meter.result() is None


@pytest.mark.parametrize(("gain", "faithful"), [(0.95, True), (0.949, False)])
def test_a_low_gain_is_not_faithful(gain: float, faithful: bool) -> None:
    assert Survival(kept(gain), {}).faithful is faithful


def test_a_warning_names_the_modules_that_lost_most() -> None:
    groups = {
        "mlp": kept(0.96),
        "norm": kept(0.5),
        "up": kept(0.2),
        "down": kept(0.7),
        "q": kept(0),
    }
    warning = Survival(kept(0.97), groups).warning
    assert warning is not None
    for told in ("97%", "0% in q, 20% in up, 50% in norm", "1 more", "--rounding stochastic"):
        assert told in warning
    assert Survival(kept(0.97), {"mlp": kept(0.95)}).warning is None
    assert Survival(kept(0.94), {"mlp": kept(0.95)}).warning is not None
