"""Several processes at one registry, and processes that are killed."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from prefreg.registry import Store

Start = Callable[..., "subprocess.Popen[str]"]


def _say(process: "subprocess.Popen[str]", text: str = "go") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def _hear(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def _run_together(*processes: "subprocess.Popen[str]") -> list[list[str]]:
    for process in processes:
        assert _hear(process) == ["ready"]
    for process in processes:
        _say(process)
    outputs = [process.communicate(timeout=60)[0].split("\n")[:-1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def test_two_processes_adding_at_once_get_different_numbers(path: Path, start: Start) -> None:
    outputs = _run_together(start("add", path, 8, 40), start("add", path, 8, 5000))
    numbers = sorted(int(number) for output in outputs for number in output)
    assert numbers == list(range(1, 17))
    with Store.open(path, write=False) as store:
        assert [record.number for record in store.versions()] == numbers
        assert store.verify() == []


def test_four_processes_opening_a_new_file_at_once_all_succeed(path: Path, start: Start) -> None:
    outputs = _run_together(*(start("create", path) for _ in range(4)))
    assert outputs == [["0"]] * 4


def test_collecting_takes_nothing_from_a_process_that_adds(path: Path, start: Start) -> None:
    Store.open(path, write=True).close()
    _run_together(start("add", path, 25, 200_000), start("collect", path, 60))
    with Store.open(path, write=False) as store:
        assert len(store.versions()) == 25
        assert store.verify() == []
