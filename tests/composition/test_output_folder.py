import errno
import os
from pathlib import Path

import pytest

from prefreg.composition.output import new_folder, swap, write_file
from prefreg.errors import OutputError

RECIPE = b'{"schema": 1, "formula": "base"}'


def fill(destination: Path, content: bytes = b"new", *, overwrite: bool = False) -> None:
    with new_folder(destination, needed=0, overwrite=overwrite, keep=[]) as folder:
        write_file(folder / "prefreg.json", RECIPE)
        write_file(folder / "model", content)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_appears_with_its_parents(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "b")
    assert everything(tmp_path) == ["a", "a/b", "a/b/model", "a/b/prefreg.json"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    assert (tmp_path / "out" / "model").read_bytes() == b"new"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        fill(tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.EIO, "broken")])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException] | OSError) -> None:
    def attempt() -> None:
        with new_folder(tmp_path / "a" / "b", needed=0, overwrite=False, keep=[]) as folder:
            write_file(folder / "model", b"half")
            raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else error):
        attempt()
    assert everything(tmp_path) == []


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        fill(tmp_path)
    with pytest.raises(OutputError, match=r"holds no prefreg\.json of ours"):
        fill(tmp_path, overwrite=True)
    assert everything(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("content", ["", "[]", '{"name": "another tool"}'])
def test_a_recipe_of_another_tool_protects_a_folder(tmp_path: Path, content: str) -> None:
    (tmp_path / "prefreg.json").write_text(content)
    with pytest.raises(OutputError, match="of ours"):
        fill(tmp_path, overwrite=True)


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match=r"out is a file"):
        fill(tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match=r"cannot be written|in the meantime"):
        fill(tmp_path / "out" / "below")


def test_overwriting_swaps_an_earlier_composition(tmp_path: Path) -> None:
    fill(tmp_path / "out", b"old")
    (tmp_path / "out" / "leftover").touch()
    fill(tmp_path / "out", overwrite=True)
    assert everything(tmp_path) == ["out", "out/model", "out/prefreg.json"]
    assert (tmp_path / "out" / "model").read_bytes() == b"new"


def test_a_failed_overwriting_keeps_the_earlier_composition(tmp_path: Path) -> None:
    fill(tmp_path / "out", b"old")
    with (
        pytest.raises(KeyboardInterrupt),
        new_folder(tmp_path / "out", needed=0, overwrite=True, keep=[]),
    ):
        raise KeyboardInterrupt
    assert everything(tmp_path) == ["out", "out/model", "out/prefreg.json"]
    assert (tmp_path / "out" / "model").read_bytes() == b"old"


def test_a_swap_that_fails_halfway_is_taken_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", b"old")
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "absent", tmp_path / "out")
    assert everything(tmp_path) == ["out", "out/model", "out/prefreg.json"]


def test_what_changed_hands_meanwhile_is_not_swapped(tmp_path: Path) -> None:
    fill(tmp_path / "out", b"old")
    with (
        pytest.raises(OutputError, match="has changed in the meantime"),
        new_folder(tmp_path / "out", needed=0, overwrite=True, keep=[]),
    ):
        (tmp_path / "out" / "prefreg.json").unlink()
    assert everything(tmp_path) == ["out", "out/model"]


def test_of_two_writers_the_first_wins(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="Something else was put at"),
        new_folder(tmp_path / "out", needed=0, overwrite=False, keep=[]),
    ):
        fill(tmp_path / "out", b"fast")
    assert everything(tmp_path) == ["out", "out/model", "out/prefreg.json"]
    assert (tmp_path / "out" / "model").read_bytes() == b"fast"


@pytest.mark.parametrize(
    ("destination", "kept"), [("base", "base"), ("base/out", "base"), ("out", "out/base")]
)
def test_the_base_is_neither_replaced_nor_written_into(
    tmp_path: Path, destination: str, kept: str
) -> None:
    (tmp_path / kept).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / kept)
    before = everything(tmp_path)
    with (
        pytest.raises(OutputError, match="contain one another"),
        new_folder(tmp_path / destination, needed=0, overwrite=True, keep=[tmp_path / "link"]),
    ):
        pass
    assert everything(tmp_path) == before


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"out needs 1024\.0 TiB, and .* free"),
        new_folder(tmp_path / "a" / "out", needed=2**50, overwrite=False, keep=[]),
    ):
        pass
    assert everything(tmp_path) == []


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            fill(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
