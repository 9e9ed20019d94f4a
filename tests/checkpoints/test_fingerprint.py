import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.fingerprint import Fingerprint, fingerprint


@pytest.fixture
def settled(saved: Path, tmp_path: Path) -> Path:
    """Return a model whose files have rested long enough to be remembered."""
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    return folder


def test_the_weights_hash_is_the_documented_one(tmp_path: Path) -> None:
    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([3, 4], dtype=torch.int64)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    lines = [
        ["a", "I64", [2], hashlib.sha256(tensors["a"].numpy().tobytes()).hexdigest()],
        ["b", "F32", [2], hashlib.sha256(tensors["b"].numpy().tobytes()).hexdigest()],
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    found = fingerprint(Checkpoint.open(tmp_path))
    assert found.weights == hashlib.sha256(text.encode()).hexdigest()
    assert (found.parameters, found.dtype) == (2, "F32")
    assert (found.tokenizer, found.template) == (None, None)


def test_sharding_does_not_change_the_fingerprint(saved: Path) -> None:
    single = fingerprint(Checkpoint.open(saved / "llama"))
    assert fingerprint(Checkpoint.open(saved / "sharded")) == single


def test_parameters_count_a_tied_weight_once(saved: Path) -> None:
    # Embeddings 64·32, attention 32·(32+16+16+32), feed-forward 3·32·48, three norms of 32.
    assert fingerprint(Checkpoint.open(saved / "tied")).parameters == 2048 + 3072 + 4608 + 96


def test_one_changed_bit_changes_the_fingerprint(settled: Path) -> None:
    before = fingerprint(Checkpoint.open(settled))
    path = settled / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert fingerprint(Checkpoint.open(settled)).weights != before.weights


def test_a_fingerprint_is_remembered_while_the_files_rest(settled: Path, cache: Path) -> None:
    first = fingerprint(Checkpoint.open(settled))
    (entry,) = (cache / "weights").iterdir()
    known = json.loads(entry.read_text())
    entry.write_text(json.dumps({**known, "weights": "0" * 64}))
    assert fingerprint(Checkpoint.open(settled)).weights == "0" * 64
    os.utime(settled / "model.safetensors", (1e9, 1e9 + 1))
    assert fingerprint(Checkpoint.open(settled)) == first


def test_a_file_just_written_is_not_remembered(settled: Path, cache: Path) -> None:
    os.utime(settled / "model.safetensors")
    fingerprint(Checkpoint.open(settled))
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"weights": 1, "parameters": 2, "dtype": "F32"}'])
def test_a_damaged_cache_is_measured_again(settled: Path, cache: Path, content: str) -> None:
    first = fingerprint(Checkpoint.open(settled))
    (entry,) = (cache / "weights").iterdir()
    entry.write_text(content)
    assert fingerprint(Checkpoint.open(settled)) == first


def test_a_cache_that_cannot_be_written_is_harmless(settled: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    expected = fingerprint(Checkpoint.open(settled))
    assert fingerprint(Checkpoint.open(settled), tmp_path / "taken") == expected


def test_the_template_is_told_apart_from_the_tokenizer(settled: Path) -> None:
    before = fingerprint(Checkpoint.open(settled))
    settings = settled / "tokenizer_config.json"
    template = json.loads(settings.read_text())["chat_template"]
    assert before.template == hashlib.sha256(template.encode()).hexdigest()
    settings.write_text(json.dumps({"chat_template": "other"}))
    changed = fingerprint(Checkpoint.open(settled))
    assert changed.template != before.template
    assert changed.tokenizer == before.tokenizer
    settings.unlink()
    (settled / "chat_template.jinja").write_text(template)
    assert fingerprint(Checkpoint.open(settled)) == before
    (settled / "tokenizer.json").write_text("{}")
    assert fingerprint(Checkpoint.open(settled)).tokenizer != before.tokenizer


def test_what_decides_on_answers_beside_the_weights_is_told_apart(settled: Path) -> None:
    def found() -> Fingerprint:
        return fingerprint(Checkpoint.open(settled))

    before = found()
    path = settled / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config))  # the same, written otherwise
    assert found() == before
    path.write_text(json.dumps(config | {"rope_theta": 500.0}))
    scaled = found()
    assert scaled == replace(before, configuration=scaled.configuration) != before
    (settled / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert found().configuration != scaled.configuration


def test_a_vocabulary_of_a_rarer_kind_counts_where_there_is_no_other(settled: Path) -> None:
    before = fingerprint(Checkpoint.open(settled)).tokenizer
    (settled / "tekken.json").write_text("{}")
    assert fingerprint(Checkpoint.open(settled)).tokenizer == before
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (settled / name).unlink()
    alone = fingerprint(Checkpoint.open(settled)).tokenizer
    (settled / "tekken.json").write_text('{"a": 1}')
    assert fingerprint(Checkpoint.open(settled)).tokenizer not in (alone, None)
