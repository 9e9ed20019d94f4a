import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefreg import files
from prefreg.files import (
    beside,
    exchange,
    hash_file,
    mark_beside,
    remove_abandoned,
    replacing,
    try_lock,
    work_folder,
)

DIE = """
import os, signal, sys
from pathlib import Path
from prefreg import files
{code}
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(code: str, folder: Path) -> None:
    """Run code in a process that is killed at its end."""
    ended = subprocess.run([sys.executable, "-c", DIE.format(code=code)], cwd=folder, check=False)
    assert ended.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    files.write_whole(tmp_path / "a", "é")
    files.write_whole(tmp_path / "a", b"new", durable=True)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "a") as partial:
        shutil.copy(tmp_path, shutil.copy(tmp_path / "a", partial))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_names_of_any_length_have_a_place_beside_them(tmp_path: Path) -> None:
    name = "é" * 120  # 240 bytes of at most 255
    files.write_whole(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(tmp_path / "a") == known == files.hash_bytes(b"abc")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    die("files.beside(Path('a')).write_text('half')", tmp_path)
    die("files.beside(Path('b')).mkdir()", tmp_path)
    die("files.beside(Path('c'), 'partial-journal').touch()", tmp_path)
    die("files.try_lock(files.mark_beside(Path('d')))", tmp_path)
    assert len(names(tmp_path)) == 4
    assert remove_abandoned(tmp_path, "a") == files.Removed(1, 4)
    assert remove_abandoned(tmp_path) == files.Removed(1, 0)
    assert names(tmp_path) == []


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    beside(tmp_path / "a").write_text("half")
    lock = try_lock(mark_beside(tmp_path / "a"))
    assert lock is not None
    assert remove_abandoned(tmp_path) == files.Removed()
    assert len(names(tmp_path)) == 2
    os.close(lock)


def test_what_looks_alike_is_left_alone(tmp_path: Path) -> None:
    for name in (".a.partial", "prefreg-notes", "a.old", ".a.1234.old"):
        (tmp_path / name).write_text("the user's")
    assert remove_abandoned(tmp_path) == files.Removed()
    assert len(names(tmp_path)) == 4


def test_what_another_machine_left_goes_after_a_week(tmp_path: Path) -> None:
    path = tmp_path / ".a.00000000-1-2-01234567.partial"
    path.write_text("half")
    remove_abandoned(tmp_path)
    assert path.exists()
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(path, (long_ago, long_ago))
    remove_abandoned(tmp_path)
    assert not path.exists()


def test_a_copy_put_aside_takes_its_place_again(tmp_path: Path) -> None:
    die("Path('out').mkdir(); os.rename('out', files.beside(Path('out'), 'old'))", tmp_path)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("at_once", [True, False])
def test_two_folders_change_places(
    tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    if not at_once:  # a file system without such a step
        monkeypatch.setattr(files.sys, "platform", "other")
    exchange(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "is").read_text() == "two"
    assert (tmp_path / "two" / "is").read_text() == "one"
    assert names(tmp_path) == ["one", "two"]


def test_a_missing_folder_changes_no_place(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "none", tmp_path / "one")
    assert names(tmp_path) == ["one"]


def test_work_folders_go_with_their_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    die("held = files.work_folder(); (held.__enter__() / 'x').write_text('half')", tmp_path)
    assert len(names(tmp_path)) == 1
    with work_folder() as folder:
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


def test_sizes_have_binary_units() -> None:
    assert [files.human_size(size) for size in (0, 1023, 1024, 3 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 GiB",
    ]


def test_what_has_no_end_or_waits_for_a_writer_is_not_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="it is no regular file"):
            hash_file(tmp_path / name)
