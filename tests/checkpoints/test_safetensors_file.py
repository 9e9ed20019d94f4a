import hashlib
import io
import json
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from prefreg.checkpoints.safetensors_file import (
    SafetensorsWriter,
    TensorSpec,
    plan_file,
    read_header,
    read_header_of,
    read_into,
)
from prefreg.errors import BaseModelError, PrefregError, VectorError

SOUND = save({"b": torch.zeros(2, 3), "a": torch.ones(4)}, metadata={"format": "pt"})


def with_header(header: object, *, data: int = 4) -> bytes:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(body).to_bytes(8, "little") + body + bytes(data)


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


def read(content: bytes, folder: Path) -> dict[str, TensorSpec]:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return read_header(path).tensors


def test_a_header_tells_where_every_tensor_lies(tmp_path: Path) -> None:
    content = with_header(
        {"a": entry(), "b": entry(dtype="BF16", shape=[2, 1], data_offsets=[4, 8])}, data=8
    )
    start = len(content) - 8
    assert read(content, tmp_path) == {
        "a": TensorSpec("a", "F32", (1,), start, 4),
        "b": TensorSpec("b", "BF16", (2, 1), start + 4, 4),
    }


def test_empty_and_scalar_tensors_are_sound(tmp_path: Path) -> None:
    content = with_header(
        {"a": entry(shape=[]), "b": entry(shape=[0, 7], data_offsets=[4, 4])}, data=4
    )
    assert [spec.elements for spec in read(content, tmp_path).values()] == [1, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends inside its header"),
        (b"\x01\x00", "ends inside its header"),
        ((10**12).to_bytes(8, "little") + b"{}", "claims 1000000000000 bytes"),
        (with_header(b"{"), "not JSON"),
        (with_header(b"\xff\xfe"), "not JSON"),
        (with_header(b"[" * 100_000), "not JSON"),
        (with_header([]), "not a JSON object"),
        (with_header(b'{"a": {}, "a": {}}'), "stands twice"),
        (with_header({"a": 1}), "not described by"),
        (with_header({"a": entry(extra=1)}), "not described by"),
        (with_header({"a\x1b": entry()}), "cannot be printed"),
        (with_header({"\ud800": entry()}), "cannot be printed"),
        (with_header({"a": entry(dtype="F33")}), "unknown dtype 'F33'"),
        (with_header({"a": entry(dtype=["F32"])}), "unknown dtype"),
        (with_header({"a": entry(shape=[-1])}), "no valid shape"),
        (with_header({"a": entry(shape=[True])}), "no valid shape"),
        (with_header({"a": entry(shape=[1.0])}), "no valid shape"),
        (with_header({"a": entry(data_offsets=[4, 0])}), "no valid offsets"),
        (with_header({"a": entry(data_offsets=[0, 4, 8])}), "no valid offsets"),
        (with_header({"a": entry(shape=[2])}), "shape and dtype do not make"),
        (with_header({"a": entry(), "b": entry()}), "'b' overlaps another"),
        (with_header({"a": entry(data_offsets=[4, 8])}, data=8), "leaves a gap"),
        (with_header({"a": entry()}, data=5), "tensors end at byte"),
        (with_header({"a": entry()}, data=3), "tensors end at byte"),
        (with_header({"__metadata__": {"format": 1}, "a": entry()}), "not a map of strings"),
    ],
)
def test_a_damaged_header_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    with pytest.raises(BaseModelError, match=reason) as caught:
        read(content, tmp_path)
    assert "model.safetensors is not a sound safetensors file" in str(caught.value)


def test_very_many_dimensions_are_refused_at_once(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [3] * 200_000, "data_offsets": [0, 4]}
    content = json.dumps({"x": entry}).encode()
    started = time.process_time()
    with pytest.raises(BaseModelError, match="'x' has 200000 dimensions"):
        read(len(content).to_bytes(8, "little") + content + bytes(4), tmp_path)
    assert time.process_time() - started < 2


def test_a_pipe_is_no_safetensors_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError, match="it is no regular file"):
        read_header(tmp_path / "model.safetensors")


def test_the_caller_chooses_the_class_of_the_error(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="cannot be read: No such file"):
        read_header(tmp_path / "absent.safetensors", VectorError)


@given(st.integers(0, len(SOUND) - 1))
def test_a_truncated_file_is_always_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    with pytest.raises(PrefregError):
        read(SOUND[:length], tmp_path_factory.getbasetemp())


@given(st.integers(0, (len(SOUND) - 40) * 8 - 1), st.integers(1, 3))
def test_flipped_bits_of_a_header_are_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, count: int
) -> None:
    damaged = bytearray(SOUND)
    for bit in range(position, position + count):
        damaged[bit // 8] ^= 1 << bit % 8
    try:
        specs = read(bytes(damaged), tmp_path_factory.getbasetemp())
    except PrefregError:
        return
    assert sum(spec.nbytes for spec in specs.values()) == 40


def test_a_plan_is_the_layout_that_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "z": torch.arange(3, dtype=torch.float32),
        "ä": torch.arange(4, dtype=torch.bfloat16),
        "m": torch.arange(5, dtype=torch.int64),
        "a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "f": torch.tensor([True, False, True]),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    written = (tmp_path / "model.safetensors").read_bytes()
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}
    header, specs = plan_file(
        [(name, names[t.dtype], tuple(t.shape)) for name, t in tensors.items()], {"format": "pt"}
    )
    assert written.startswith(header)
    assert {spec.name: spec for spec in specs} == read(written, tmp_path)


@settings(deadline=None, database=None)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_crash_the_reader_of_headers(content: bytes, framed: bool) -> None:
    if framed:  # past the check of the length, to the JSON
        content = len(content).to_bytes(8, "little") + content
    try:
        header = read_header_of(io.BytesIO(content), size=len(content), name="it")
    except BaseModelError as error:
        assert "is not a sound safetensors file" in str(error)  # noqa: PT017 - either is right
        return
    assert sum(spec.nbytes for spec in header.tensors.values()) < len(content)


Entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "I64", "", "X"]) | st.integers(),
        "shape": st.lists(st.integers(-1, 2**63), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 2**64), max_size=3),
    }
)


@settings(deadline=None, database=None)
@given(st.dictionaries(st.text(max_size=4), Entry, max_size=3), st.integers(0, 64))
def test_no_header_leads_outside_of_its_file(entries: dict[str, object], room: int) -> None:
    raw = json.dumps(entries).encode()
    content = len(raw).to_bytes(8, "little") + raw + bytes(room)
    try:
        header = read_header_of(io.BytesIO(content), size=len(content), name="it")
    except BaseModelError:
        return
    for spec in header.tensors.values():
        assert 8 + len(raw) <= spec.offset <= spec.offset + spec.nbytes <= len(content)


def test_what_is_written_is_read_back_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with SafetensorsWriter(path, [("b", "U8", (3,)), ("a", "U8", (2,))], {}) as writer:
        assert [spec.name for spec in writer.specs] == ["a", "b"]
        writer.write(b"\x01\x02")
        writer.write(b"\x03\x04\x05")
        digest = writer.finish()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size == writer.size
    view = memoryview(bytearray(3))
    with path.open("rb") as stream:
        read_into(stream.fileno(), read_header(path).tensors["b"].offset, view)
    assert bytes(view) == b"\x03\x04\x05"


def test_a_file_that_is_not_full_does_not_finish(tmp_path: Path) -> None:
    with (
        SafetensorsWriter(tmp_path / "a.safetensors", [("a", "U8", (2,))], {}) as writer,
        pytest.raises(AssertionError),
    ):
        writer.finish()


def test_reading_behind_the_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    with path.open("rb") as stream, pytest.raises(EOFError, match="ends at byte 3"):
        read_into(stream.fileno(), 1, memoryview(bytearray(5)))
