import json

import pytest

from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.layout import index_file, parse_size, plan_files
from prefreg.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("200MB", 2 * 10**8),
        ("1.5kb", 1500),
        ("1GiB", 2**30),
        ("2 TB", 2 * 10**12),
        ("4096", 4096),
    ],
)
def test_sizes_are_read_as_transformers_writes_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "-1GB", "5XB", "5GBB", "1e9", "0.0001KB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Write it as 5GB, 200MB or 1GiB"):
        parse_size(text)


def test_the_base_decides_the_shards(bases: dict[str, BaseModel]) -> None:
    checkpoint = bases["sharded"].checkpoint
    files = plan_files(checkpoint, dtype=None, max_shard_size=None)
    assert tuple(file.name for file in files) == checkpoint.shards
    index = index_file(files)
    assert index is not None
    original = json.loads((checkpoint.path / "model.safetensors.index.json").read_text())
    assert json.loads(index)["weight_map"] == original["weight_map"]
    assert json.loads(index)["metadata"]["total_size"] == original["metadata"]["total_size"]


def test_a_single_file_needs_no_index(bases: dict[str, BaseModel]) -> None:
    files = plan_files(bases["llama"].checkpoint, dtype=None, max_shard_size=10**9)
    assert [file.name for file in files] == ["model.safetensors"]
    assert index_file(files) is None


def test_a_size_limits_every_shard_but_never_cuts_a_tensor(bases: dict[str, BaseModel]) -> None:
    # In bfloat16 the embeddings and the head take 4096 bytes each, more than a shard may.
    checkpoint = bases["llama"].checkpoint
    files = plan_files(checkpoint, dtype="BF16", max_shard_size=4000)
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(file.nbytes <= 4000 or len(file.tensors) == 1 for file in files)
    names = [tensor.stored.spec.name for file in files for tensor in file.tensors]
    assert names == list(checkpoint.tensors)
    assert sum(file.nbytes for file in files) == 2 * bases["llama"].fingerprint.parameters
