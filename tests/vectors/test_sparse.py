import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from prefreg.errors import VectorError
from prefreg.vectors import open_vector
from prefreg.vectors.sparse import SparseVector, write_sparse
from prefreg.vectors.stored import metadata_of
from prefreg.vectors.tensors import MemoryTensors


def stored(tensors: dict[str, torch.Tensor], path: Path, **options: Any) -> SparseVector:
    write_sparse(MemoryTensors(tensors), path, **options)
    return SparseVector.open(path)


def test_the_largest_numbers_of_each_weight_are_kept(tmp_path: Path) -> None:
    tensors = {"w": torch.tensor([[1.0, -5.0], [3.0, 0.0]]), "v": torch.tensor([0.1, -0.2])}
    with stored(tensors, tmp_path / "v", share=0.5) as vector:
        assert vector.names == ("v", "w")
        assert vector.tensor("w").tolist() == [[0.0, -5.0], [3.0, 0.0]]
        assert vector.tensor("v").tolist() == [0.0, pytest.approx(-0.2)]


def test_of_equal_numbers_the_first_are_kept_and_at_least_one(tmp_path: Path) -> None:
    tensors = {"w": torch.tensor([2.0, -2.0, 2.0, 2.0])}
    with stored(tensors, tmp_path / "v", share=0.5) as vector:
        assert vector.tensor("w").tolist() == [2.0, -2.0, 0.0, 0.0]
    with stored(tensors, tmp_path / "v", share=0.001) as vector:
        assert vector.tensor("w").tolist() == [2.0, 0.0, 0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(), (9,), (4, 6), (2, 3, 4)]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(["F32", "BF16"]),
)
def test_everything_kept_is_the_vector_itself(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], seed: int, dtype: str
) -> None:
    phi = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    phi = phi.bfloat16().float() if dtype == "BF16" else phi
    path = tmp_path_factory.mktemp("s") / "v"
    with stored({"w": phi}, path, share=1.0, dtype=dtype) as vector:
        assert vector.dtype == dtype
        assert torch.equal(vector.tensor("w"), phi)


def test_blocks_are_parts_of_the_whole(tmp_path: Path) -> None:
    phi = torch.randn(7, 11, generator=torch.Generator().manual_seed(1))
    write_sparse(MemoryTensors({"w": phi}), tmp_path / "v", share=0.3)
    with open_vector((tmp_path / "v").read_bytes(), kind="sparse") as vector:
        whole = vector.tensor("w").flatten()
        assert int((whole != 0).sum()) == round(0.3 * 77)
        for start, stop in ((0, 77), (3, 9), (10, 12), (76, 77), (5, 5)):
            assert torch.equal(vector.block("w", start, stop), whole[start:stop])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(tmp_path: Path, bad: float) -> None:
    with pytest.raises(VectorError, match="'w' of the vector holds NaN or infinity"):
        write_sparse(MemoryTensors({"w": torch.tensor([[1.0, bad]])}), tmp_path / "v", share=0.5)
    with pytest.raises(VectorError, match="without tensors"):
        write_sparse(MemoryTensors({}), tmp_path / "v", share=0.5)
    assert not list(tmp_path.iterdir())


GOOD = {
    "w.values": torch.ones(2),
    "w.places": torch.tensor([0, 3], dtype=torch.int32),
    "w.shape": torch.tensor([2, 2]),
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"w.values": torch.ones(3)}, "Values and places of 'w' in .* do not fit"),
        ({"w.places": torch.tensor([0, 3])}, "Values and places of 'w' in .* do not fit"),
        ({"x.values": torch.ones(1)}, "see 'x.places', 'x.shape'"),
        ({"w.places": torch.tensor([3, 0], dtype=torch.int32)}, "places of 'w' in .* do not fit"),
        ({"w.places": torch.tensor([0, 4], dtype=torch.int32)}, "places of 'w' in .* do not fit"),
        ({"w.places": torch.tensor([-1, 3], dtype=torch.int32)}, "places of 'w' in .* do not fit"),
        ({"w.shape": torch.tensor([-2, -2])}, "places of 'w' in .* do not fit"),
        ({"w.shape": torch.tensor([1 << 40, 1 << 40])}, "places of 'w' in .* do not fit"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor], reason: str
) -> None:
    save_file(GOOD, tmp_path / "v", metadata=metadata_of("sparse"))
    with SparseVector.open(tmp_path / "v") as vector:
        assert vector.tensor("w").tolist() == [[1.0, 0.0], [0.0, 1.0]]
    save_file(GOOD | changes, tmp_path / "v", metadata=metadata_of("sparse"))
    with pytest.raises(VectorError, match=reason), SparseVector.open(tmp_path / "v") as vector:
        vector.tensor("w")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "dense")
    with pytest.raises(VectorError, match="is not a sparse preference vector"):
        SparseVector.open(tmp_path / "dense")
