"""Real processes that are killed, and the weights that the next one ends with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import worded

STEPS = 6
KILLED, INTERRUPTED = -9, 130


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Carry out every run of these tests; torch is imported once for all."""
    folder = tmp_path_factory.mktemp("runs")
    base = str(worded.save(folder / "base"))
    wanted: dict[str, list[dict[str, Any]]] = {
        "plain": [{}],
        "killed": [
            {"end": ["reference", 1]},
            {"end": ["positive", 3]},
            {"end": ["scoring positive", 1]},
            {"end": ["negative", 4]},
            {},
        ],
        "interrupted": [{"end": ["negative", 2, "interrupt"]}, {}],
        "fresh": [{"end": ["negative", 2]}, {"fresh": True}],
        "lora": [{"lora": True}],
        "killed lora": [{"lora": True, "end": ["positive", 3]}, {"lora": True}],
        "damaged": [
            {"end": ["positive", 4]},
            {"damage": "positive-steps/checkpoint-*/*.safetensors"},
        ],
    }
    runs = [
        {"base": base, "cache": str(folder / name.replace(" ", "-"))} | run
        for name, several in wanted.items()
        for run in several
    ]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interrupted.py"), json.dumps(runs)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = iter(json.loads(done.stdout))
    return {name: [next(found) for _ in several] for name, several in wanted.items()}


def test_a_run_that_was_killed_at_any_point_ends_with_the_same_weights(
    results: dict[str, list[dict[str, Any]]],
) -> None:
    *killed, last = results["killed"]
    assert [run["code"] for run in killed] == [KILLED] * 4
    [plain] = results["plain"]
    assert last["sha256"] == plain["sha256"]
    assert last["curves"] == plain["curves"]
    assert [len(curve) for curve in last["curves"]] == [STEPS, STEPS]


def test_what_was_finished_is_not_done_again(results: dict[str, list[dict[str, Any]]]) -> None:
    last = results["killed"][-1]
    assert last["notes"] == [
        "Going on with an earlier run, which had finished the positive pole.",
    ]
    stages = {stage for stage, _ in last["stages"]}
    assert stages == {"negative", "scoring negative"}
    assert ["negative", 1] not in last["stages"]


def test_ctrl_c_says_how_to_go_on(results: dict[str, list[dict[str, Any]]]) -> None:
    first, second = results["interrupted"]
    assert first["code"] == INTERRUPTED
    assert "the same command goes on from here" in first["interrupted"]
    assert second["sha256"] == results["plain"][0]["sha256"]
    assert next(step for stage, step in second["stages"] if stage == "negative") >= 3


def test_starting_over_does_everything_again(results: dict[str, list[dict[str, Any]]]) -> None:
    _, again = results["fresh"]
    assert again["sha256"] == results["plain"][0]["sha256"]
    assert ["positive", 1] in again["stages"]


def test_factors_are_taken_up_bit_for_bit_too(results: dict[str, list[dict[str, Any]]]) -> None:
    killed, again = results["killed lora"]
    assert killed["code"] == KILLED
    assert again["sha256"] == results["lora"][0]["sha256"] != results["plain"][0]["sha256"]
    assert ["positive", 1] not in again["stages"]


def test_a_damaged_checkpoint_is_told_and_not_used(
    results: dict[str, list[dict[str, Any]]],
) -> None:
    _, again = results["damaged"]
    [note] = again["notes"]
    assert "is damaged, so it is not used" in note
    assert again["sha256"] == results["plain"][0]["sha256"]
