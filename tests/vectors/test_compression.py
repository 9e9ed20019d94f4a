from pathlib import Path
from typing import Any

import pytest
import torch

from prefreg.errors import UsageError, VectorError
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.compression import compress, measure
from prefreg.vectors.dense import write_dense
from prefreg.vectors.lowrank import Factors, truncate, write_low_rank
from prefreg.vectors.tensors import MemoryTensors


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(tensors: dict[str, torch.Tensor], path: Path, dtype: str = "F32") -> Vector:
    write_dense(MemoryTensors(tensors), path, dtype=dtype)
    return open_vector(path)


def test_what_is_kept_is_measured() -> None:
    phi = MemoryTensors({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([12.0])})
    kept = MemoryTensors({"a": torch.tensor([3.0, 0.0])})
    found = measure(phi, kept)
    assert (found.norm, found.kept_norm) == (13.0, 3.0)  # √(3² + 4² + 12²)
    assert found.relative_error == pytest.approx(160**0.5 / 13)  # √(4² + 12²) / 13
    assert found.norm_ratio == pytest.approx(3 / 13)
    assert found.cosine == pytest.approx(9 / (13 * 3))
    assert (found.errors, found.kept_norms) == ({"a": 4.0, "b": 12.0}, {"a": 3.0})
    assert measure(phi, MemoryTensors({})).cosine is None
    assert measure(phi, phi).to_json() == {"relative_error": 0, "norm_ratio": 1, "cosine": 1}


@pytest.mark.parametrize("shape", [(40, 30), (1100, 1050)])  # exact, and randomised
def test_a_low_rank_matrix_loses_nothing_at_its_rank(shape: tuple[int, int]) -> None:
    matrix = noise(shape[0], 5) @ noise(5, shape[1], seed=1)
    found = truncate(matrix, 5)
    assert found.factors.rank == 5
    assert found.error <= 1e-6 * found.norm
    assert truncate(matrix, 5).factors.b.equal(found.factors.b)
    assert truncate(matrix, 4).error > 1e-2 * found.norm


def test_a_truncation_is_the_nearest_one() -> None:
    found = truncate(torch.diag(torch.tensor([4.0, 3.0, 0.5, 0.0])), 2)
    assert found.error == pytest.approx(0.5, rel=1e-6)
    assert found.norm == pytest.approx((16 + 9 + 0.25) ** 0.5)
    product = found.factors.b @ found.factors.a
    assert torch.allclose(product, torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])), atol=1e-6)
    assert truncate(torch.ones(2, 3), 9).factors.rank == 2


def test_only_matrices_are_kept_at_a_rank(tmp_path: Path) -> None:
    matrix = noise(6, 3) @ noise(3, 8, seed=1)
    with dense({"w": matrix, "bias": torch.ones(6)}, tmp_path / "v") as vector:
        made = compress(vector, tmp_path / "out", how="rank", value=3)
        assert (made.kind, made.dtype, made.dropped) == ("low-rank", "F32", ("bias",))
        with open_vector(tmp_path / "out", kind="low-rank") as kept:
            found = measure(vector, kept)
    assert found.errors["w"] <= 1e-6 * found.norms["w"]
    assert found.errors["bias"] == pytest.approx(6**0.5)
    with dense({"bias": torch.ones(6)}, tmp_path / "v") as vector:  # noqa: SIM117  (two facts)
        with pytest.raises(VectorError, match="changes no matrices"):
            compress(vector, tmp_path / "out", how="rank", value=3)


def test_factors_are_recompressed(tmp_path: Path) -> None:
    half = Factors(noise(6, 2), noise(2, 5, seed=1))
    twice = Factors(torch.cat([half.b, half.b], 1), torch.cat([half.a, half.a]))
    write_low_rank({"w": twice}, tmp_path / "v")
    with open_vector(tmp_path / "v", kind="low-rank") as vector:
        made = compress(vector, tmp_path / "out", how="rank", value=2)
        assert (made.kind, made.dropped) == ("low-rank", ())
        with open_vector(tmp_path / "out", kind="low-rank") as kept:
            assert measure(vector, kept).relative_error <= 1e-6
        with pytest.raises(UsageError, match="has rank 4; choose a smaller one than 4"):
            compress(vector, tmp_path / "out", how="rank", value=4)
        with pytest.raises(UsageError, match="becomes smaller by `rank=` only"):
            compress(vector, tmp_path / "out", how="int8", value=True)


@pytest.mark.parametrize(
    ("dtype", "how", "value", "kind", "stored", "bound"),
    [
        ("F32", "dtype", "bf16", "dense", "BF16", 2**-8),
        ("F32", "int8", True, "int8", "I8", 0.02),
        ("BF16", "int8", True, "int8", "I8", 0.02),
        ("F32", "topk", 1.0, "sparse", "F32", 0.0),
        ("BF16", "topk", 1.0, "sparse", "BF16", 0.0),
    ],
)
def test_every_form_keeps_about_what_it_says(
    tmp_path: Path, dtype: str, how: Any, value: Any, kind: str, stored: str, bound: float
) -> None:
    with dense({"w": noise(20, 30), "b": noise(20)}, tmp_path / "v", dtype) as vector:
        made = compress(vector, tmp_path / "out", how=how, value=value)
        assert (made.kind, made.dtype) == (kind, stored)
        with open_vector(tmp_path / "out", kind=kind) as kept:
            assert kept.dtype == stored
            assert measure(vector, kept).relative_error <= bound


def test_what_makes_nothing_smaller_is_refused(tmp_path: Path) -> None:
    with dense({"w": noise(4, 4)}, tmp_path / "v", "BF16") as vector:
        with pytest.raises(UsageError, match="has BF16 already"):
            compress(vector, tmp_path / "out", how="dtype", value="bf16")
        compress(vector, tmp_path / "int8", how="int8", value=True)
    with open_vector(tmp_path / "int8", kind="int8") as vector:
        for how, value in (("int8", True), ("dtype", "bf16")):
            with pytest.raises(UsageError, match="makes it no smaller"):
                compress(vector, tmp_path / "out", how=how, value=value)
    assert not (tmp_path / "out").exists()
