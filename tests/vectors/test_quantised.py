import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prefreg.errors import VectorError
from prefreg.vectors import open_vector
from prefreg.vectors.quantised import Int8Vector, write_int8
from prefreg.vectors.stored import metadata_of
from prefreg.vectors.tensors import MemoryTensors


def stored(tensors: dict[str, torch.Tensor], path: Path) -> Int8Vector:
    write_int8(MemoryTensors(tensors), path)
    return Int8Vector.open(path)


def test_rows_are_rounded_to_steps_of_their_own_scale(tmp_path: Path) -> None:
    phi = torch.tensor([[254.0, -3.0, 1.0], [0.0, 0.0, 0.0], [-0.127, 0.0006, 0.05]])
    with stored({"w": phi}, tmp_path / "v"):
        raw = load_file(tmp_path / "v")
    # Scales 254/127 = 2, 0 and .127/127 = .001; −3/2 and 1/2 are rounded to even.
    assert raw["w.scale"].tolist() == pytest.approx([2.0, 0.0, 0.001])
    assert raw["w.q"].tolist() == [[127, -2, 0], [0, 0, 0], [-127, 1, 50]]
    with open_vector((tmp_path / "v").read_bytes(), kind="int8") as vector:
        assert vector.tensor("w")[0].tolist() == [254.0, -4.0, 0.0]
        assert (vector.names, vector.shape("w"), vector.dtype) == (("w",), (3, 3), "I8")


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(5,), (1, 7), (6, 1), (3, 4), (2, 3, 5), ()]),
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-30, 1e-6, 1.0, 1e6]),
)
def test_no_number_moves_by_more_than_half_a_step(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], seed: int, size: float
) -> None:
    phi = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    with stored({"w": phi}, tmp_path_factory.mktemp("q") / "v") as vector:
        rows = phi.reshape(-1, shape[-1] if shape else 1)
        half = rows.abs().amax(1, keepdim=True) / 127 / 2
        moved = (vector.tensor("w").reshape(rows.shape) - rows).abs()
        assert (moved <= half * (1 + 1e-4)).all()


def test_blocks_are_parts_of_the_whole_and_the_sign_turns_everything(tmp_path: Path) -> None:
    phi = torch.randn(7, 11, generator=torch.Generator().manual_seed(1))
    with stored({"w": phi}, tmp_path / "v") as vector, stored({"w": -phi}, tmp_path / "n") as other:
        whole = vector.tensor("w").flatten()
        for start, stop in ((0, 77), (3, 9), (10, 12), (11, 22), (76, 77), (5, 5)):
            assert torch.equal(vector.block("w", start, stop), whole[start:stop])
        assert torch.equal(other.tensor("w"), -vector.tensor("w"))


def test_rows_longer_than_a_block_and_names_like_parts_are_no_trouble(tmp_path: Path) -> None:
    long = torch.linspace(-1, 1, (1 << 17) + 3)
    tensors = {"w": long, "w.scale": torch.ones(2, 2), "w.q": torch.ones(3)}
    with stored(tensors, tmp_path / "v") as vector:
        assert vector.names == ("w", "w.q", "w.scale")
        assert (vector.tensor("w") - long).abs().max() <= 1 / 254 + 1e-7
        assert torch.equal(vector.tensor("w.scale"), torch.ones(2, 2))


def test_equal_vectors_are_equal_files(tmp_path: Path) -> None:
    phi = {"b": torch.randn(4, 4), "a": torch.randn(5)}
    one = write_int8(MemoryTensors(phi), tmp_path / "one")
    assert one == write_int8(MemoryTensors(dict(reversed(phi.items()))), tmp_path / "two")
    assert one.size == (tmp_path / "one").stat().st_size


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(tmp_path: Path, bad: float) -> None:
    with pytest.raises(VectorError, match="'w' of the vector holds NaN or infinity"):
        write_int8(MemoryTensors({"w": torch.tensor([[1.0, bad]])}), tmp_path / "v")
    with pytest.raises(VectorError, match="without tensors"):
        write_int8(MemoryTensors({}), tmp_path / "v")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"w.q": torch.zeros(2, 2, dtype=torch.int8)}, "see 'w.scale'"),
        (
            {"w.q": torch.zeros(2, 2, dtype=torch.int8), "w.scale": torch.ones(3)},
            r"scales of 'w' in .* do not fit: I8 \[2, 2\] and F32 \[3\]",
        ),
        ({"w.q": torch.zeros(2), "w.scale": torch.ones(1)}, "do not fit: F32"),
        ({}, "see anything"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    save_file(tensors, tmp_path / "v", metadata=metadata_of("int8"))
    with pytest.raises(VectorError, match=reason):
        Int8Vector.open(tmp_path / "v")
    save_file({"w": torch.ones(1)}, tmp_path / "dense")
    with pytest.raises(VectorError, match="is not a quantised preference vector"):
        Int8Vector.open(tmp_path / "dense")
