import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from prefreg.errors import PrefregError, VectorError
from prefreg.vectors import open_vector
from prefreg.vectors.dense import DenseVector, write_dense
from prefreg.vectors.stored import metadata_of
from prefreg.vectors.tensors import MemoryTensors

PHI = {"b.weight": torch.tensor([[1.0, -2.0], [0.5, 3.0]]), "a.weight": torch.tensor([0.1])}
SOUND = save(PHI, metadata=metadata_of("dense"))


def test_a_stored_vector_is_the_file_that_the_library_writes(tmp_path: Path) -> None:
    written = write_dense(MemoryTensors(PHI), tmp_path / "phi.safetensors")
    assert (tmp_path / "phi.safetensors").read_bytes() == SOUND
    assert written.size == len(SOUND)


@pytest.mark.parametrize("from_bytes", [True, False])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_stored_vector_is_read_back(tmp_path: Path, dtype: str, from_bytes: bool) -> None:
    path = tmp_path / "phi.safetensors"
    write_dense(MemoryTensors(PHI), path, dtype=dtype)
    with DenseVector.open(path.read_bytes() if from_bytes else path) as vector:
        assert vector.names == ("a.weight", "b.weight")
        assert vector.dtype == dtype
        assert vector.shape("b.weight") == (2, 2)
        assert vector.tensor("b.weight").tolist() == [[1.0, -2.0], [0.5, 3.0]]
        assert vector.tensor("b.weight").dtype == torch.float32
        assert vector.block("b.weight", 1, 3).tolist() == [-2.0, 0.5]
        stored = torch.tensor(0.1) if dtype == "F32" else torch.tensor(0.1).bfloat16().float()
        assert torch.equal(vector.tensor("a.weight"), stored.reshape(1))


def test_an_open_vector_outlives_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "phi.safetensors"
    path.write_bytes(SOUND)
    with DenseVector.open(path) as vector:
        path.unlink()
        assert vector.tensor("b.weight")[1, 1] == 3.0


def test_a_closed_vector_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "phi.safetensors"
    path.write_bytes(SOUND)
    vector = DenseVector.open(path)
    vector.close()
    vector.close()
    with pytest.raises(ValueError, match="is closed"):
        vector.tensor("b.weight")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (save(PHI), "its metadata is not"),
        (save(PHI, metadata={**metadata_of("dense"), "format": "pt"}), "its metadata is not"),
        (save(PHI, metadata={"prefreg": '{"format":2,"kind":"dense"}'}), "its metadata is not"),
        (save({"a": torch.zeros(1).half()}, metadata=metadata_of("dense")), "holds F16; a dense"),
        (
            save(
                {"a": torch.zeros(1), "b": torch.zeros(1).bfloat16()}, metadata=metadata_of("dense")
            ),
            "holds BF16, F32; a dense",
        ),
        (save({}, metadata=metadata_of("dense")), "holds nothing; a dense"),
        (SOUND[:-1], "not a sound safetensors file"),
    ],
)
def test_what_is_no_dense_vector_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(VectorError, match=f"^The stored vector .*{reason}"):
        DenseVector.open(content)
    path = tmp_path / "phi.safetensors"
    path.write_bytes(content)
    with pytest.raises(VectorError, match=rf"phi\.safetensors .*{reason}"):
        DenseVector.open(path)


def test_messages_call_a_vector_by_its_label(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match=r"^helpful@1 is not a sound"):
        open_vector(b"", label="helpful@1")
    with pytest.raises(VectorError, match=r"^helpful@1 in .*absent cannot be read: No such file"):
        open_vector(tmp_path / "absent", label="helpful@1")
    os.mkfifo(tmp_path / "pipe.safetensors")  # to open it would wait for a writer
    with pytest.raises(VectorError, match=r"pipe\.safetensors cannot be read: it is no regular"):
        open_vector(tmp_path / "pipe.safetensors", kind="sparse")
    with pytest.raises(VectorError, match="kind 'wavelet' cannot be read by this version"):
        open_vector(b"", kind="wavelet")


@given(st.integers(0, len(SOUND) * 8 - 1))
def test_a_flipped_bit_never_escapes_as_another_error(position: int) -> None:
    damaged = bytearray(SOUND)
    damaged[position // 8] ^= 1 << position % 8
    try:
        vector = DenseVector.open(bytes(damaged))
        for name in vector.names:
            vector.tensor(name)
    except PrefregError:
        return


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_not_stored(tmp_path: Path, value: float) -> None:
    with pytest.raises(VectorError, match=r"'a' of the vector holds NaN or infinity"):
        write_dense(MemoryTensors({"a": torch.tensor([0.0, value])}), tmp_path / "phi")
    assert list(tmp_path.iterdir()) == []


def test_nothing_and_other_dtypes_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="without tensors"):
        write_dense(MemoryTensors({}), tmp_path / "phi")
    with pytest.raises(VectorError, match="stored in F32 or BF16, not in 'F16'"):
        write_dense(MemoryTensors(PHI), tmp_path / "phi", dtype="F16")


def test_a_library_file_of_equal_tensors_is_equal_whatever_their_order(tmp_path: Path) -> None:
    save_file(dict(reversed(PHI.items())), tmp_path / "phi", metadata=metadata_of("dense"))
    assert (tmp_path / "phi").read_bytes() == SOUND
