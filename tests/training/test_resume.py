"""What a run keeps; and real processes that are killed, with the weights of the next one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import worded
from prefreg.training.resume import open_resume_folder, remove_run, runs_folder

pytestmark = pytest.mark.slow
STEPS = 6
KILLED, INTERRUPTED = -9, 130
WEIGHTS = {"weight": torch.arange(4.0)}


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
        "forged": [
            {"end": ["positive", 4]},
            {"forge": "positive-steps/checkpoint-*/scheduler.pt"},
            {"fresh": True},
        ],
        "forged pole": [{"end": ["negative", 1]}, {"forge": "positive.json"}],
    }
    runs = [
        {"base": base, "cache": str(folder / name.replace(" ", "-"))} | run
        for name, several in wanted.items()
        for run in several
    ]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interrupted.py"), json.dumps(runs)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
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
        "Each pole: 6 steps of 16 pairs, 96 pairs, 1.8 passes over 54.",
        "Going on with an earlier run, which had finished the positive pole.",
    ]
    stages = {stage for stage, _ in last["stages"]}
    assert stages == {"negative", "scoring negative"}
    assert ["negative", 0] not in last["stages"]


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
    assert ["positive", 0] not in again["stages"]


def test_a_damaged_checkpoint_is_told_and_not_used(
    results: dict[str, list[dict[str, Any]]],
) -> None:
    _, again = results["damaged"]
    _schedule, note = again["notes"]
    assert "is damaged, so it is not used" in note
    assert again["sha256"] == results["plain"][0]["sha256"]


@pytest.mark.parametrize(
    ("name", "what"), [("forged", "checkpoint"), ("forged pole", "finished positive pole")]
)
def test_what_is_whole_but_none_of_ours_is_refused_with_the_way_out(
    results: dict[str, list[dict[str, Any]]], name: str, what: str
) -> None:
    _, refused, *fresh = results[name]
    assert refused["error"] == "TrainingError"
    assert f"he {what} " in refused["said"]
    assert refused["said"].endswith("; `fresh=` starts over.")
    assert len(refused["said"]) < 600
    for each in fresh:
        assert each["sha256"] == results["plain"][0]["sha256"]


def test_a_finished_pole_is_found_by_the_next_process_of_the_same_run() -> None:
    with open_resume_folder({"seed": 0}, "red", needed=0) as kept:
        assert kept is not None
        assert kept.recall("positive") is None
        kept.keep("positive", WEIGHTS, {"curve": [0.1]})
    with open_resume_folder({"seed": 1}, "red", needed=0) as other:
        assert other is not None
        assert other.recall("positive") is None
    with open_resume_folder({"seed": 0}, "red", needed=0) as again:
        assert again is not None
        found = again.recall("positive")
        assert found is not None
        assert torch.equal(found[0]["weight"], WEIGHTS["weight"])
        assert found[1] == {"curve": [0.1]}
    again.remove()
    assert not list(runs_folder().iterdir())


def test_starting_over_forgets_what_was_kept() -> None:
    with open_resume_folder(0, "red", needed=0) as kept:
        assert kept is not None
        kept.keep("positive", WEIGHTS, {})
    with open_resume_folder(0, "red", needed=0, fresh=True) as again:
        assert again is not None
        assert again.recall("positive") is None


@pytest.mark.parametrize("name", ["positive.safetensors", "positive.json"])
def test_a_damaged_pole_is_told_once_and_not_used(name: str) -> None:
    notes: list[str] = []
    with open_resume_folder(0, "red", needed=0, note=notes.append) as kept:
        assert kept is not None
        kept.keep("positive", WEIGHTS, {})
        path = kept.folder / name
        path.write_bytes(path.read_bytes()[:-1])
        assert kept.recall("positive") is None
        assert kept.recall("positive") is None
    [note] = notes
    assert "positive pole" in note
    assert "is damaged; it is trained again" in note


def test_a_run_that_another_process_carries_out_is_left_to_it() -> None:
    notes: list[str] = []
    with open_resume_folder(0, "red", needed=0) as first:
        assert first is not None
        first.keep("positive", WEIGHTS, {})
        with open_resume_folder(0, "red", needed=0, fresh=True, note=notes.append) as second:
            assert second is None
        assert not remove_run(first.folder)
        assert first.recall("positive") is not None
    assert notes == [
        "This run cannot be taken up again if it is ended: another process is carrying out the "
        "same run."
    ]


def test_a_disk_or_folder_that_takes_nothing_only_costs_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    with open_resume_folder(0, "red", needed=1 << 60, note=notes.append) as kept:
        assert kept is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "file"))
    with open_resume_folder(0, "red", needed=0, note=notes.append) as kept:
        assert kept is None
    assert "TiB of disk, which are not free" in notes[0]
    assert "cannot be written" in notes[1]


def test_a_run_that_kept_nothing_leaves_nothing() -> None:
    with open_resume_folder(0, "red", needed=0):
        pass
    assert not list(runs_folder().iterdir())
