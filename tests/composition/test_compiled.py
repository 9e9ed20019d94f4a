"""The compiled block against the arithmetic that it stands for."""

import math
import os
import subprocess
import sys

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.composition.compiled import sum_block
from prefreg.composition.engine import Workspace, compose_tensor
from prefreg.composition.rounding import Tally

TORCH = {True: torch.bfloat16, False: torch.float32}
Eta = st.floats(-4, 4, width=32).filter(lambda eta: eta == 0 or abs(eta) > 1e-3)


def usual(bits: int, narrow: bool) -> bool:
    # So far from the largest that no sum overflows, so far from 0 that none is rounded to −0.
    exponent = bits >> (7 if narrow else 23) & 0xFF
    return 64 < exponent < 250


def stored(bits: list[int], narrow: bool) -> torch.Tensor:
    if narrow:
        return torch.tensor(bits, dtype=torch.int64).to(torch.int16).view(torch.bfloat16)
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


def compiled(
    base: torch.Tensor, phis: list[torch.Tensor], etas: list[float], dtype: torch.dtype
) -> tuple[torch.Tensor, Tally]:
    count = len(base)
    rooms = numpy.zeros((2 + len(phis), count + 3), numpy.uint32)
    narrow = [each.dtype == torch.bfloat16 for each in (base, torch.empty(0, dtype=dtype), *phis)]
    for room, numbers in zip([rooms[0], *rooms[2:]], [base, *phis], strict=True):
        source = numbers.view(torch.uint8).numpy()
        room.view(numpy.uint8)[: len(source)] = source
    sums = sum_block(rooms, numpy.array(narrow), numpy.array(etas, numpy.float32), count)
    requested, changed, wanted, overlap, got = sums
    kind = numpy.int16 if dtype == torch.bfloat16 else numpy.int32
    result = torch.from_numpy(rooms[1].view(kind)[:count].copy()).view(dtype)
    return result, Tally(requested, changed, overlap=overlap, wanted=wanted, got=got)


@given(st.data())
def test_every_bit_is_that_of_the_plain_arithmetic(data: st.DataObject) -> None:
    vectors = data.draw(st.integers(1, 4))
    count = data.draw(st.sampled_from([1, 7, 1023, 1024, 1025]))
    kinds = data.draw(st.lists(st.booleans(), min_size=2 + vectors, max_size=2 + vectors))
    etas = data.draw(st.lists(Eta, min_size=vectors, max_size=vectors))
    seed = data.draw(st.integers(0, 2**32 - 1))
    draw = numpy.random.default_rng(seed)
    drawn = []
    for narrow in (kinds[0], *kinds[2:]):
        width = 16 if narrow else 32
        bits = [int(each) for each in draw.integers(0, 2**width, count)]
        drawn.append(stored([each if usual(each, narrow) else 0 for each in bits], narrow))
    base, *phis = drawn
    dtype = TORCH[kinds[1]]
    result, tally = compiled(base, phis, etas, dtype)
    terms = [(eta, phi.float()) for eta, phi in zip(etas, phis, strict=True)]
    expected = compose_tensor(base, terms, dtype)
    if all(etas):  # a term of 0 is left out before, and −0 + 0 is not −0
        assert result.view(torch.uint8).tolist() == expected.view(torch.uint8).tolist()
    other = Tally()
    Workspace(torch.device("cpu")).compose(base, phis, etas, dtype, other)
    assert (tally.requested, tally.changed) == (other.requested, other.changed)
    for one, two in ((tally.wanted, other.wanted), (tally.got, other.got)):
        assert one == pytest.approx(two, rel=1e-4)
    scale = math.sqrt(other.wanted) * math.sqrt(other.got)
    assert tally.overlap == pytest.approx(other.overlap, rel=1e-4, abs=1e-4 * scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_not_finite_shows_in_the_sums(bad: float, where: int, dtype: torch.dtype) -> None:
    numbers = [torch.zeros(5) for _ in range(3)]
    numbers[where][3] = bad
    _, tally = compiled(numbers[0], numbers[1:], [1.0, -0.5], dtype)
    assert not math.isfinite(tally.wanted + tally.got)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_no_nan_is_rounded_to_a_number(bits: int) -> None:
    phi = torch.tensor([bits]).to(torch.int32).view(torch.float32)
    _, tally = compiled(torch.ones(1), [phi], [1.0], torch.bfloat16)
    assert not math.isfinite(tally.wanted + tally.got)


def test_an_overflow_of_the_rounding_alone_shows_too() -> None:
    largest = torch.tensor([3.4e38])  # finite in float32, above the last bfloat16
    result, tally = compiled(torch.zeros(1), [largest], [1.0], torch.bfloat16)
    assert torch.isinf(result).all()
    assert not math.isfinite(tally.got)


def test_compiled_code_is_kept_and_nowhere_to_keep_it_is_no_obstacle() -> None:
    code = (
        "import numpy, prefreg.composition.compiled as compiled;"
        "rooms, narrow = numpy.ones((2, 4), numpy.uint32), numpy.zeros(2, numpy.bool_);"
        "compiled.sum_block(rooms, narrow, numpy.zeros(0, numpy.float32), 4);"
        "print(rooms[1].tolist(), type(compiled.sum_block._cache).__name__)"
    )
    kinds = []
    for locators in ("", "ZipCacheLocator"):  # the second one knows only folders inside of archives
        environment = os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": locators}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        result, _, kind = done.stdout.strip().rpartition(" ")
        assert result == "[1, 1, 1, 1]"
        kinds.append(kind)
    assert kinds == ["FunctionCache", "NullCache"]
