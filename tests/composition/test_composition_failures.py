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
from prefreg.composition.output import Composed, write_composition
from prefreg.composition.plan import Plan
from prefreg.errors import BaseModelError, OutputError, UsageError, VectorError

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
    time.sleep(60)

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
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert [path.suffix for path in (tmp_path / "here").iterdir()] == [".partial"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
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
