"""Several processes at one registry, and processes that are killed."""

import os
import random
import signal
import subprocess
import time
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


def test_killing_at_random_moments_leaves_a_sound_registry(path: Path, start: Start) -> None:
    Store.open(path, write=True).close()
    dice = random.Random(20)
    breeder = start("breed", path)
    assert _hear(breeder) == ["ready"]
    present: set[int] = set()
    for kill in range(30):
        said = _kill_one(breeder, seed=kill, after=dice.uniform(0.005, 0.25))
        present = _check_against(path, present, said)
        if kill % 5 == 4:
            _check_collection(path)
    assert len(present) > 5


def _kill_one(breeder: "subprocess.Popen[str]", *, seed: int, after: float) -> list[list[str]]:
    """Let a child work for a moment, kill it, and return what it said."""
    _say(breeder, str(seed))
    said = []
    while (line := _hear(breeder))[0] != "child":
        said.append(line)
    time.sleep(after)
    os.kill(int(line[1]), signal.SIGKILL)
    while (line := _hear(breeder)) != ["gone"]:
        assert line[0] != "error:", line
        said.append(line)
    return said


def _check_against(path: Path, before: set[int], said: list[list[str]]) -> set[int]:
    """What was reported as done is done; at most the last announcement is open."""
    certain = set(before)
    for verb, number in said:
        if verb == "added":
            certain.add(int(number))
        elif verb == "removed":
            certain.remove(int(number))
    with Store.open(path, write=False) as store:
        found = {record.number for record in store.versions()}
        assert store.verify() == []
    verb, number = said[-1] if said else ("", "0")
    if verb == "add":
        assert found >= certain
        assert len(found - certain) <= 1
    elif verb == "remove":
        assert certain - {int(number)} <= found <= certain
    else:
        assert found == certain
    return found


def _check_collection(path: Path) -> None:
    with Store.open(path, write=True, inline_limit=64) as store:
        store.gc()
        assert store.verify() == []
        needed = {f"{record.sha256}.safetensors" for record in store.versions() if record.size > 64}
    assert {file.name for file in path.with_suffix(".vectors").iterdir()} == needed
