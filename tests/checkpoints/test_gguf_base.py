"""GGUF files as bases: the numbers of transformers' own reader, once, the whole or nothing."""

import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf")

from transformers import AutoModelForCausalLM, AutoTokenizer

import ggufs
from prefreg import BaseModelError
from prefreg.checkpoints import gguf_base, resolve_base
from prefreg.checkpoints.gguf_base import GGUFOrigin, open_gguf, read_gguf
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.progress import heard_by


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_the_weights_are_those_that_transformers_reads(
    kind: str, tmp_path: Path, cache: Path
) -> None:
    tied = kind != "Q8_0"
    file = ggufs.write(tmp_path / "model.gguf", kind=kind, model=ggufs.llama(tied=tied))
    base = resolve_base(str(file))
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=file.name, dtype=torch.float32
        )
        ours = load_model(base)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, state[name]), name
    stored = {tensor.spec.dtype for tensor in base.checkpoint.tensors.values()}
    assert stored == ({"F32", kind} if kind in ("F16", "BF16") else {"F32"})
    assert base.checkpoint.tied is tied
    assert ("lm_head.weight" in base.checkpoint.tensors) is not tied


def test_what_was_not_quantised_is_the_model_itself(tmp_path: Path, cache: Path) -> None:
    model = ggufs.llama()
    ours = load_model(resolve_base(str(ggufs.write(tmp_path / "model.gguf", model=model))))
    for name, weight in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(ours.eval()(tokens).logits, model.eval()(tokens).logits)


def test_the_divided_frequencies_of_llama_3_are_a_rule_of_the_configuration(
    tmp_path: Path, cache: Path
) -> None:
    model = ggufs.llama()
    # Waves of 2π·10000^(i/8) positions; below 2048 they stay, above 8192 they are 32 times as long.
    middle = 2 * math.pi * 1000
    share = (8192 / middle - 1) / (4 - 1)
    divisors = np.array([1, 1, 1, 1, 1, 1, 1 / ((1 - share) / 32 + share), 32], np.float32)
    tensors = ggufs.tensors_of(model) | {"rope_freqs.weight": divisors}
    base = resolve_base(str(ggufs.write(tmp_path / "model.gguf", tensors)))
    rule = json.loads((base.path / "config.json").read_text())["rope_parameters"]
    assert (rule["rope_type"], rule["factor"], rule["rope_theta"]) == ("llama3", 32.0, 10000.0)
    model.config.rope_parameters = rule
    theirs = type(model)(model.config)
    theirs.load_state_dict(model.state_dict())
    tokens = torch.arange(40)[None]
    logits = load_model(base).eval()(tokens).logits
    assert torch.equal(logits, theirs.eval()(tokens).logits)
    assert not torch.equal(logits, model.eval()(tokens).logits)


def test_a_block_by_hand(tmp_path: Path, cache: Path) -> None:
    # A block of Q4_1: scale and least value as half floats, then 32 nibbles, 16 low ones first.
    scale, least = np.float16(0.5).tobytes(), np.float16(-1.0).tobytes()
    block = scale + least + bytes([0x10 + at % 10 for at in range(16)])
    name, rows = "blk.0.attn_v.weight", 32
    raw = {name: np.frombuffer(block * 2 * rows, np.uint8).reshape(rows, 2 * len(block))}
    base = resolve_base(str(ggufs.write(tmp_path / "model.gguf", kind="Q4_1", raw=raw)))
    weight = load_model(base).state_dict()["model.layers.0.self_attn.v_proj.weight"]
    low = [0.5 * (at % 10) - 1 for at in range(16)]
    assert weight[0].tolist() == (low + [-0.5] * 16) * 2


def test_tokenizer_and_template_come_with_it(tmp_path: Path, cache: Path) -> None:
    base = resolve_base(str(ggufs.write(tmp_path / "model.gguf")))
    tokenizer = load_tokenizer(base)
    with quiet():
        theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = "hello, Wörld!\n 12 <|end|>"
    assert tokenizer(text).input_ids == theirs(text).input_ids
    assert tokenizer("he").input_ids == [256]
    # A token that transformers adds of itself has no row in the embeddings.
    assert len(theirs) > len(tokenizer) == len(ggufs.TOKENS)
    assert max(tokenizer("<|endoftext|>").input_ids) < len(ggufs.TOKENS)
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.chat_template == ggufs.TEMPLATE
    assert base.fingerprint.template is not None
    plain = resolve_base(str(ggufs.write(tmp_path / "plain.gguf", template=None)))
    assert plain.fingerprint.template is None


def test_it_is_dequantised_once_and_known_by_its_content(tmp_path: Path, cache: Path) -> None:
    file = ggufs.write(tmp_path / "model.gguf", kind="Q4_0")
    heard: list[tuple[str, int, int]] = []
    with heard_by(lambda stage, done, total, loss=None, /: heard.append((stage, done, total))):
        base = resolve_base(str(file))
        total = sum(tensor.nbytes for tensor in read_gguf(file).tensors)
        assert heard[0] == ("dequantising model.gguf", 0, total)
        assert heard[-1] == ("dequantising model.gguf", total, total)
        heard.clear()
        moved = resolve_base(str(shutil.copy(file, tmp_path / "other.gguf")))
        assert (moved.path, moved.fingerprint) == (base.path, base.fingerprint)
        assert heard == []
        other = resolve_base(str(ggufs.write(tmp_path / "new.gguf", model=ggufs.llama(seed=1))))
        assert heard != []
    assert other.path != base.path
    assert base.name == str(file)
    assert base.gguf == GGUFOrigin("model.gguf", gguf_base.hash_file(file), "Q4_0, F32")
    assert sorted(path.name for path in (cache / "gguf").iterdir()) == sorted(
        [base.path.name, other.path.name, "hashes"][
            : 3 if (cache / "gguf" / "hashes").exists() else 2
        ]
    )


def test_the_folder_says_nothing_of_where_it_was_made(tmp_path: Path, cache: Path) -> None:
    base = resolve_base(str(ggufs.write(tmp_path / "model.gguf")))
    for path in base.path.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    config = json.loads((base.path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & config.keys()
    assert (base.path / "README.md").read_text() == '---\nlicense: "mit"\n---\n'


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    file = ggufs.write(tmp_path / "model.gguf")
    os.utime(file, ns=(10**18, 10**18))
    folder, origin = open_gguf(file)
    (entry,) = (cache / "gguf" / "hashes").iterdir()
    assert entry.read_text() == origin.sha256
    entry.write_text("0" * 64)  # believed, so the file was not read again
    (cache / "gguf" / f"{'0' * 32}-1").symlink_to(folder)
    assert open_gguf(file)[0].name == f"{'0' * 32}-1"
    os.utime(file, ns=(10**18, 10**18 + 1))
    assert open_gguf(file)[0] == folder


def without(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tensors = ggufs.tensors_of(ggufs.llama())
        del tensors[name]
        return ggufs.write(folder / "model.gguf", tensors)

    return make


def with_tensor(name: str, array: np.ndarray[Any, Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tensors = ggufs.tensors_of(ggufs.llama())
        return ggufs.write(folder / "model.gguf", tensors | {name: array})

    return make


def written(name: str = "model.gguf", **options: Any) -> Callable[[Path], Path]:
    return lambda folder: ggufs.write(folder / name, **options)


def changed(old: bytes, new: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file = ggufs.write(folder / "model.gguf", kind="Q4_0")
        data = file.read_bytes()
        assert old in data
        file.write_bytes(data.replace(old, new, 1))
        return file

    return make


def text(folder: Path) -> Path:
    (folder / "model.gguf").write_text("a model\n")
    return folder / "model.gguf"


def folder_of_that_name(folder: Path) -> Path:
    (folder / "model.gguf").mkdir()
    return folder / "model.gguf"


def cut(folder: Path) -> Path:
    file = ggufs.write(folder / "model.gguf")
    file.write_bytes(file.read_bytes()[:-1])
    return file


Q = b"blk.0.attn_q.weight" + struct.pack("<IQQ", 2, 64, 64)
NAN = np.full((64,), np.nan, np.float32)
ONES = np.ones(32, np.float32)
REFUSED = {
    "text": (text, "is no GGUF file: it does not begin as one"),
    "folder": (folder_of_that_name, "holds no weights"),
    "cut": (cut, r"ends before its tensor '\S+' does. It is damaged or not whole: fetch it again"),
    "version": (changed(b"GGUF\x03", b"GGUF\x09"), "is GGUF of version 9; versions 2 and 3"),
    "kind": (changed(Q + b"\2", Q + b"\x63"), "holds 'blk.0.attn_q.weight' in the type 99, which"),
    "numbers": (
        with_tensor("extra.weight", np.arange(4, dtype=np.int32)),
        "of the type I32, which",
    ),
    "architecture": (
        written(architecture="grok"),
        "The architecture of model.gguf, a 'grok' model",
    ),
    "part": (
        written("big-00001-of-00003.gguf"),
        "is one of 3 parts. Join them by `llama-gguf-split",
    ),
    "split": (written(split__count=2), "is one of 2 parts"),
    "tokenizer": (written(tokenizer=False), "holds no tokenizer, so no text can be put to it"),
    "strange": (with_tensor("blk.0.attn_q.bias", ONES), "no place for 'blk.0.attn_q.bias'"),
    "divided": (with_tensor("rope_freqs.weight", 2 * ONES[:8]), r"its positions \(by divisors\)"),
    "lfm2": (written(architecture="lfm2"), "'lfm2' model"),
    "lacking": (without("blk.1.ffn_up.weight"), "needs 'model.layers.1.mlp.up_proj.weight'"),
    "shape": (with_tensor("output_norm.weight", ONES), r"'output_norm.weight' is \[32\], and"),
    "not finite": (with_tensor("output_norm.weight", NAN), "holds numbers that are not finite"),
    "layers": (written(blocks=10**9), "speaks of 1000000000 layers"),
    "stretched": (written(llama__rope__scaling__type="yarn"), r"stretches its positions \(yarn\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_line_and_leaves_nothing(
    case: str, tmp_path: Path, cache: Path
) -> None:
    make, told = REFUSED[case]
    with pytest.raises(BaseModelError, match=told) as caught:
        resolve_base(str(make(tmp_path)))
    assert "\n" not in str(caught.value)
    assert [path for path in cache.rglob("*") if path.parent.name != "hashes"] in (
        [],
        [cache / "gguf"],
        [cache / "gguf", cache / "gguf" / "hashes"],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a file."""
    return ggufs.write(tmp_path_factory.mktemp("whole") / "model.gguf", kind="Q8_0").read_bytes()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file to write over."""
    return tmp_path_factory.mktemp("spoilt") / "model.gguf"


@settings(max_examples=150)
@given(data=st.data())
def test_no_beginning_of_a_file_is_read(whole: bytes, spoilt: Path, data: st.DataObject) -> None:
    header = read_header_length(whole)
    length = data.draw(st.integers(4, header) | st.integers(header, len(whole) - 1))
    spoilt.write_bytes(whole[:length])
    with pytest.raises(BaseModelError, match="It is damaged or not whole: fetch it again"):
        read_gguf(spoilt)


def read_header_length(whole: bytes) -> int:
    return whole.index(b"blk.1.ffn_down.weight") + 60


@settings(max_examples=200)
@given(data=st.data())
def test_bytes_that_are_wrong_are_read_or_refused(
    whole: bytes, spoilt: Path, data: st.DataObject
) -> None:
    spoilt_bytes = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, read_header_length(whole)))
        spoilt_bytes[at] = data.draw(st.integers(0, 255))
    spoilt.write_bytes(spoilt_bytes)
    with suppress(BaseModelError):
        found = read_gguf(spoilt)
        assert all(each.offset + each.nbytes <= len(whole) for each in found.tensors)


def test_without_the_package_the_message_brings_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ggufs.write(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BaseModelError, match=r"Get it: `pip install gguf`$"):
        resolve_base(str(file))


def test_a_disk_and_a_memory_that_are_too_small_are_told(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ggufs.write(tmp_path / "model.gguf")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
        with pytest.raises(BaseModelError, match=r"once it is dequantised, and .* 976\.6 KiB free"):
            resolve_base(str(file))
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(BaseModelError, match=r"takes .* of memory, and 1000 B are free"):
        resolve_base(str(file))


def test_what_another_process_has_made_meanwhile_is_taken(tmp_path: Path, cache: Path) -> None:
    file = ggufs.write(tmp_path / "model.gguf")
    folder, origin = open_gguf(file)
    (folder / "model.safetensors").unlink()  # not whole: it is made anew
    assert open_gguf(file) == (folder, origin)
    again = gguf_base._dequantise(file, origin.sha256, folder)
    assert again == origin
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_gguf_files_says_to_name_one(tmp_path: Path) -> None:
    ggufs.write(tmp_path / "model.gguf")
    with pytest.raises(BaseModelError, match=r"Name a file: .*model\.gguf$"):
        resolve_base(str(tmp_path))


def test_what_is_no_file_is_refused_in_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "round.gguf").symlink_to("round.gguf")
    with pytest.raises(BaseModelError, match=r"pipe\.gguf cannot be read: it is no regular file"):
        read_gguf(tmp_path / "pipe.gguf")
    with pytest.raises(BaseModelError, match=r"round\.gguf cannot be read: Too many levels"):
        read_gguf(tmp_path / "round.gguf")
