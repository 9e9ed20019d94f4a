import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from prefreg.errors import VectorError
from prefreg.vectors import open_vector
from prefreg.vectors.lowrank import (
    TILE_ROWS,
    Factors,
    LowRankVector,
    concatenate,
    dot,
    inner,
    multiply,
    norms,
    recompress,
    subtract,
    write_low_rank,
)
from prefreg.vectors.stored import metadata_of
from prefreg.vectors.tensors import MemoryTensors

# [[1], [2]]·[[3, 4, 5]] is [[3, 4, 5], [6, 8, 10]].
SIMPLE = {"q.weight": Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0, 5.0]]))}
STORED = {
    "q.weight.a": SIMPLE["q.weight"].a,
    "q.weight.b": SIMPLE["q.weight"].b,
}


def random_factors(rows: int, columns: int, rank: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rows, rank, generator=generator),
        torch.randn(rank, columns, generator=generator),
    )


def product(factors: Factors) -> torch.Tensor:
    return factors.b.double() @ factors.a.double()


shapes = st.tuples(*[st.integers(1, 20)] * 3, st.integers(0, 1000))
"""Rows, columns, rank and seed."""


def test_the_file_is_the_one_that_the_library_writes(tmp_path: Path) -> None:
    written = write_low_rank(SIMPLE, tmp_path / "phi.safetensors")
    expected = save(STORED, metadata=metadata_of("low-rank"))
    assert (tmp_path / "phi.safetensors").read_bytes() == expected
    assert written.size == len(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["phi.safetensors"]


@pytest.mark.parametrize("read", [Path.read_bytes, lambda path: path])
def test_it_is_read_like_a_dense_vector(
    tmp_path: Path, read: Callable[[Path], bytes | Path]
) -> None:
    write_low_rank(SIMPLE, tmp_path / "phi.safetensors")
    with open_vector(read(tmp_path / "phi.safetensors"), kind="low-rank") as vector:
        assert isinstance(vector, LowRankVector)
        assert vector.names == ("q.weight",)
        assert vector.shape("q.weight") == (2, 3)
        assert vector.ranks == {"q.weight": 1}
        assert vector.tensor("q.weight").tolist() == [[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]
        assert vector.block("q.weight", 2, 4).tolist() == [5.0, 6.0]


def test_a_closed_vector_cannot_be_read(tmp_path: Path) -> None:
    write_low_rank(SIMPLE, tmp_path / "phi")
    with LowRankVector.open(tmp_path / "phi") as vector:
        vector.tensor("q.weight")
    with pytest.raises(ValueError, match="is closed"):
        vector.tensor("q.weight")


@given(shapes, st.data())
def test_any_block_is_a_part_of_the_whole_bit_for_bit(
    shape: tuple[int, int, int, int], data: st.DataObject
) -> None:
    rows, columns, rank, seed = shape
    wide = random_factors(rows, columns, rank, seed).wide()
    whole = multiply(wide, 0, rows * columns)
    start = data.draw(st.integers(0, rows * columns - 1))
    stop = data.draw(st.integers(start + 1, rows * columns))
    assert torch.equal(multiply(wide, start, stop), whole[start:stop])
    torch.testing.assert_close(whole.reshape(rows, columns), (wide.b @ wide.a).float())


@given(st.data())
def test_a_stack_of_matrices_has_a_product_for_each(data: st.DataObject) -> None:
    parts = [random_factors(3, 5, 2, seed) for seed in range(4)]
    stack = Factors(torch.stack([p.b for p in parts]), torch.stack([p.a for p in parts]))
    expected = torch.stack([multiply(part.wide(), 0, 15) for part in parts]).flatten()
    start = data.draw(st.integers(0, 59))
    stop = data.draw(st.integers(start + 1, 60))
    assert torch.equal(multiply(stack.wide(), start, stop), expected[start:stop])
    assert (stack.rank, stack.shape, stack.transposed().shape) == (2, (4, 3, 5), (4, 5, 3))
    assert inner(stack, stack) == pytest.approx(sum(inner(part, part) for part in parts))
    twice = concatenate([stack, stack.scaled(-0.5)])
    assert twice.rank == 4
    torch.testing.assert_close(product(twice), 0.5 * product(stack))
    back = recompress(twice, 2)
    torch.testing.assert_close(product(back.factors), 0.5 * product(stack))
    assert (back.error, back.norm) == pytest.approx((0, 0.5 * inner(stack, stack) ** 0.5), abs=1e-6)


def test_a_stored_stack_is_read_in_blocks(tmp_path: Path) -> None:
    stack = Factors(torch.rand(3, 9, 2), torch.rand(3, 2, 4))
    write_low_rank({"experts": stack, **SIMPLE}, tmp_path / "v")
    with LowRankVector.open(tmp_path / "v") as vector:
        assert (vector.shape("experts"), vector.ranks["experts"]) == ((3, 9, 4), 2)
        whole = vector.tensor("experts")
        torch.testing.assert_close(whole, stack.b @ stack.a)
        assert torch.equal(vector.block("experts", 30, 80), whole.flatten()[30:80])


def test_blocks_do_not_need_the_whole_matrix() -> None:
    factors = Factors(torch.ones(1 << 14, 1), torch.ones(1, 1 << 14)).wide()
    part = multiply(factors, 5, (1 << 14) + 5)
    assert part.untyped_storage().nbytes() <= 2 * TILE_ROWS * (1 << 14) * 4
    assert part.sum() == 1 << 14


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-3, 3)), min_size=1, max_size=4))
def test_concatenated_factors_are_the_sum(parts: list[tuple[int, float]]) -> None:
    factors = [random_factors(6, 4, rank, seed) for seed, (rank, _) in enumerate(parts)]
    scaled = [part.scaled(eta) for part, (_, eta) in zip(factors, parts, strict=True)]
    expected = sum(eta * product(part) for part, (_, eta) in zip(factors, parts, strict=True))
    assert isinstance(expected, torch.Tensor)
    total = concatenate(scaled)
    assert total.rank == sum(rank for rank, _ in parts)
    torch.testing.assert_close(product(total), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(total), product(concatenate(scaled[::-1])))
    torch.testing.assert_close(product(total.scaled(-1)), -product(total), rtol=0, atol=0)


def test_the_difference_of_two_adapters_has_both_ranks() -> None:
    positive, negative = random_factors(5, 4, 2, 0), random_factors(5, 4, 3, 1)
    only = random_factors(3, 3, 1, 2)
    phi = subtract({"q.weight": positive, "k.weight": only}, {"q.weight": negative, "v": only})
    assert {name: part.rank for name, part in phi.items()} == {"k.weight": 1, "q.weight": 5, "v": 1}
    torch.testing.assert_close(product(phi["q.weight"]), product(positive) - product(negative))
    torch.testing.assert_close(product(phi["v"]), -product(only))
    with pytest.raises(VectorError, match="'q' has another shape in one pole"):
        subtract({"q": positive}, {"q": only})


@given(shapes)
def test_inner_products_by_factors_are_those_of_the_matrices(
    shape: tuple[int, int, int, int],
) -> None:
    rows, columns, rank, seed = shape
    one = random_factors(rows, columns, rank, seed)
    other = random_factors(rows, columns, rank + 1, seed + 1)
    expected = float(torch.sum(product(one) * product(other)))
    assert inner(one, other) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert dot({"q": one, "k": one}, {"q": other}) == inner(one, other)
    assert norms({"q": one})["q"] == pytest.approx(float(product(one).norm()), rel=1e-9)


@given(shapes, st.integers(1, 20))
def test_recompression_is_the_best_and_says_what_it_lost(
    shape: tuple[int, int, int, int], rank: int
) -> None:
    factors = random_factors(*shape)
    result = recompress(factors, rank)
    assert result.factors.rank <= rank
    values = torch.linalg.svdvals(product(factors))
    assert result.error == pytest.approx(float(values[rank:].norm()), abs=1e-6)
    assert result.norm == pytest.approx(float(values.norm()), rel=1e-6)
    lost = product(result.factors) - product(factors)
    assert math.isclose(float(lost.norm()), result.error, abs_tol=1e-5 * result.norm)


def test_a_rank_that_is_low_already_stays_as_it_is() -> None:
    factors = random_factors(6, 5, 2, 0)
    assert recompress(factors, 2).factors is factors


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"q.weight.a": torch.ones(1, 2)}, r"two factors for every weight: see 'q\.weight\.b'"),
        ({"other": torch.ones(1)}, "two factors for every weight"),
        ({}, "two factors for every weight"),
        ({"q.a": torch.ones(1, 2), "q.b": torch.ones(3, 2)}, r"'q' .* do not fit: F32 \[3, 2\]"),
        ({"q.a": torch.ones(0, 2), "q.b": torch.ones(3, 0)}, "do not fit"),
        ({"q.a": torch.ones(1), "q.b": torch.ones(1)}, "do not fit"),
        ({"q.a": torch.ones(1, 2).half(), "q.b": torch.ones(3, 1)}, "do not fit: F32 .* and F16"),
    ],
)
def test_what_is_no_low_rank_vector_is_refused(
    tensors: dict[str, torch.Tensor], reason: str
) -> None:
    with pytest.raises(VectorError, match=reason):
        LowRankVector.open(save(tensors, metadata=metadata_of("low-rank")))


def test_another_kind_is_refused() -> None:
    with pytest.raises(VectorError, match="φ of helpful is not a low-rank preference vector"):
        LowRankVector.open(save(STORED), label="φ of helpful")


def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    broken = {"q": Factors(torch.tensor([[math.nan]]), torch.ones(1, 1))}
    with pytest.raises(VectorError, match=r"'q\.b' of the vector holds NaN or infinity"):
        write_low_rank(broken, tmp_path / "phi")
    with pytest.raises(VectorError, match="without tensors"):
        write_low_rank({}, tmp_path / "phi")
    assert list(tmp_path.iterdir()) == []


def test_it_is_the_dense_vector_of_its_products(tmp_path: Path) -> None:
    write_low_rank(SIMPLE, tmp_path / "phi")
    dense = MemoryTensors({"q.weight": torch.tensor([[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]])})
    with LowRankVector.open(tmp_path / "phi") as vector:
        assert torch.equal(vector.block("q.weight", 0, 6), dense.block("q.weight", 0, 6))
