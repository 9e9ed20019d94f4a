import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.errors import BaseModelError, UsageError
from prefreg.vectors.stored import blocks, parse_dtype
from prefreg.vectors.tensors import count_nonzero, is_finite, read_block, read_tensor, to_bytes


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("float32", "F32"),
        ("bfloat16", "BF16"),
        ("float16", "F16"),
        ("BF16", "BF16"),
        ("f32", "F32"),
    ],
)
def test_the_usual_spellings_of_dtypes_are_read(text: str, dtype: str) -> None:
    assert parse_dtype(text) == dtype


@pytest.mark.parametrize("text", ["", "int8", "float64", "F33"])
def test_other_dtypes_are_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="Use float32, bfloat16, float16"):
        parse_dtype(text)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([[1.5, -0.0], [float("inf"), 3e-40]]),
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        torch.tensor([1.0, 2.0], dtype=torch.float16),
        torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
        torch.tensor([1.0, 2.0]).to(torch.float8_e5m2),
        torch.tensor([-(2**62), 5]),
        torch.tensor([-3], dtype=torch.int16),
        torch.tensor([200], dtype=torch.uint8),
        torch.tensor([True, False, True]),
        torch.zeros(0, 3),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_tensors_are_read_bit_for_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    found = read_tensor(Checkpoint.open(tmp_path).tensors["a"])
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert bytes(to_bytes(found)) == bytes(to_bytes(tensor))


def test_a_block_is_a_piece_of_the_flat_tensor(tmp_path: Path) -> None:
    save_file({"a": torch.arange(12.0).reshape(3, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert read_block(Checkpoint.open(tmp_path).tensors["a"], 3, 6).tolist() == [3.0, 4.0, 5.0]


def test_blocks_cover_a_tensor_once() -> None:
    assert list(blocks(7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(blocks(0, 3)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 517, 999])
def test_one_value_that_is_no_number_is_found(
    dtype: torch.dtype, value: float, position: int
) -> None:
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert is_finite(tensor)
    tensor[position] = value
    assert not is_finite(tensor)


def test_counting_and_finiteness_of_little() -> None:
    assert is_finite(torch.zeros(0))
    assert count_nonzero(torch.tensor([[0.0, -0.0], [1e-45, math.nan]])) == 2


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    stored = Checkpoint.open(tmp_path).tensors["a"]
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(BaseModelError, match=r"model\.safetensors cannot be read: the file ends"):
        read_tensor(stored)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"model\.safetensors cannot be read: No such file"):
        read_tensor(stored)
