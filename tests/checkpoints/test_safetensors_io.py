import hashlib
from pathlib import Path

import pytest

from prefreg.checkpoints.safetensors_file import SafetensorsWriter, read_header, read_into


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
