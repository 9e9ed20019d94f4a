import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Thread

import pytest
from transformers import AutoModelForCausalLM

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.composition.output import (
    Composed,
    new_folder,
    swap,
    write_composition,
    write_file,
    write_recipe,
)
from prefreg.composition.plan import Plan
from prefreg.errors import BaseModelError, OutputError, UsageError, VectorError

RECIPE = {"schema": 1, "formula": "base"}


def fill(destination: Path, content: bytes = b"new", *, overwrite: bool = False) -> None:
    with new_folder(destination, needed=0, overwrite=overwrite, keep=[]) as folder:
        write_file(folder / "model", content)
        write_recipe(folder, RECIPE)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_appears_with_its_parents(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "b")
    assert everything(tmp_path) == ["a", "a/b", "a/b/model", "a/b/prefreg.json"]


def test_the_root_is_no_folder_to_write() -> None:
    with pytest.raises(OutputError, match="another folder"):
        fill(Path("/"))


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
    with pytest.raises(OutputError, match=r"holds no prefreg\.json of ours that names its files"):
        fill(tmp_path, overwrite=True)
    assert everything(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"name": "another tool"}']
    + [json.dumps({**RECIPE, **own}) for own in ({}, {"contents": None}, {"contents": [1]})],
)
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
    (tmp_path / "out" / "model").write_bytes(b"edited")
    (tmp_path / "out" / ".DS_Store").touch()
    fill(tmp_path / "out", overwrite=True)
    assert everything(tmp_path) == ["out", "out/model", "out/prefreg.json"]
    assert (tmp_path / "out" / "model").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.txt", "notes.txt"),
        (".gitattributes", ".gitattributes"),
        ("link", "link"),
        ("plots/one/notes.txt", "plots/"),
    ],
)
def test_a_file_of_the_users_own_is_not_overwritten(tmp_path: Path, name: str, told: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    fill(out, b"old")

    def put() -> None:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to(elsewhere) if name == "link" else (out / name).write_text("mine")

    put()
    with pytest.raises(OutputError, match=rf"holds '{told}', which was not composed") as refused:
        fill(out, overwrite=True)
    assert "Move it away" in str(refused.value)
    (out / name).unlink()
    with (
        pytest.raises(OutputError, match="has changed in the meantime"),
        new_folder(out, needed=0, overwrite=True, keep=[]),
    ):
        put()
    assert (out / name).exists()
    assert (out / "model").read_bytes() == b"old"


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


MakePlan = Callable[..., Plan]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("option", [{"dtype": "int8"}, {"max_shard_size": "five"}])
def test_malformed_options_are_wrong_usage(
    bases: dict[str, BaseModel], tmp_path: Path, option: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        write_composition(Plan(bases["llama"], []), tmp_path / "out", **option)  # type: ignore[arg-type]


def test_a_damaged_vector_or_base_leaves_nothing(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    plan = make_plan(bases["llama"], helpful=1.0)
    path = tmp_path / "helpful.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VectorError, match="The vector of helpful@1 in"):
        write_composition(plan, tmp_path / "here" / "out")
    folder = Path(shutil.copytree(bases["llama"].path, tmp_path / "base"))
    base = resolve_base(str(folder))
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(BaseModelError, match=r"model\.safetensors cannot be read"):
        write_composition(Plan(base, []), tmp_path / "here" / "out")
    assert list((tmp_path / "here").iterdir()) == []


def test_the_base_the_vectors_and_the_output_stay_apart(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(bases["llama"], helpful=1.0)
    for destination in (bases["llama"].path, bases["llama"].path / "out", tmp_path):
        with pytest.raises(OutputError, match="contain one another"):
            write_composition(plan, destination, overwrite=True)


def test_a_composition_replaces_an_earlier_one_only_when_asked(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    write_composition(make_plan(bases["llama"], helpful=1.0), tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(OutputError, match="is not empty"):
        write_composition(make_plan(bases["llama"], helpful=2.0), tmp_path / "out")
    assert files(tmp_path / "out") == before
    write_composition(make_plan(bases["llama"], helpful=2.0), tmp_path / "out", overwrite=True)
    assert files(tmp_path / "out") != before
    recipe = json.loads((tmp_path / "out" / "prefreg.json").read_bytes())
    assert {*recipe["contents"], "prefreg.json"} == before.keys()


def test_of_two_compositions_to_one_place_one_wins(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(bases["llama"], helpful=1.0)
    both = Barrier(2, timeout=20)
    results: list[Composed | OutputError] = []

    def compose() -> None:
        def meet(_: str, done: int, total: int) -> None:
            if done == total:
                both.wait()

        try:
            results.append(write_composition(plan, tmp_path / "here" / "out", progress=meet))
        except OutputError as error:
            results.append(error)

    threads = [Thread(target=compose) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(result).__name__ for result in results) == ["Composed", "OutputError"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["out"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "here" / "out")


INTERRUPTED = """
import sys, time
from pathlib import Path
from prefreg.checkpoints.bases import resolve_base
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan

def pause(*_):
    print("writing", flush=True)
    # Short naps: a signal may reach another thread, or come just before one long sleep begins.
    for _ in range(6_000):
        time.sleep(0.01)

write_composition(Plan(resolve_base(sys.argv[1]), []), Path(sys.argv[2]), progress=pause)
"""


def test_an_interrupted_process_leaves_nothing(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, bases["llama"].path, tmp_path / "here" / "out"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert [path.suffix for path in (tmp_path / "here").iterdir()] == [".partial"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert "KeyboardInterrupt" in errors
    assert list((tmp_path / "here").iterdir()) == []


def test_a_disk_that_fills_up_is_left_without_a_trace(
    bases: dict[str, BaseModel], make_plan: MakePlan, small_disk: Path
) -> None:
    def fill(*_: object) -> None:
        with (small_disk / "filler").open("ab", buffering=0) as stream, suppress(OSError):
            while stream.write(bytes(4096)):
                pass

    with pytest.raises(OutputError, match=r"The disk of .*out is full; nothing was left there"):
        write_composition(
            make_plan(bases["sharded"], helpful=1.0), small_disk / "new" / "out", progress=fill
        )
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    bases: dict[str, BaseModel], small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(bytes(1_500_000))
    with pytest.raises(OutputError, match=r"out needs 1\.0 MiB, and .*/disk has .* KiB free"):
        write_composition(Plan(bases["llama"], []), small_disk / "out")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
