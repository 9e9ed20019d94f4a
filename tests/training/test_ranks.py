"""Several real processes make one vector: beside one process, ended, resumed, refused."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import prefreg
import worded
from axis_runs import make_run
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import resolve_base
from prefreg.data.pairs import build_pairs
from prefreg.errors import TrainingError, UsageError
from prefreg.launch import Launch
from prefreg.models.ranks import Ranks, several
from prefreg.training.pair import check_processes
from prefreg.training.settings import resolve_settings

pytestmark = pytest.mark.slow
Found = dict[str, list[list[dict[str, Any]]]]
KILLED, INTERRUPTED = -9, 130
GONE = "processes of this run is gone. What is done is kept: the same command goes on from here"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Carry out every run of these tests; torch is imported once for all."""
    folder = tmp_path_factory.mktemp("ranks")
    base = str(worded.save(folder / "base"))
    wanted: dict[str, list[dict[str, Any]]] = {
        "one": [{}],
        "copies": [{"world": 2}],
        "shards": [{"world": 2, "shard": True}],
        "one lora": [{"lora": True}],
        "shards lora": [{"world": 2, "shard": True, "lora": True}],
        "killed": [
            {"world": 2, "shard": True, "end": [1, "positive", 4]},
            {"world": 2, "end": [0, "negative", 3]},
            {},
        ],
        "ended": [{"world": 2, "stop": ["positive", 3]}, {"world": 3, "shard": True}],
        "other": [{"world": 2, "other": 1}],
    }
    runs = [
        {"base": base, "cache": str(folder / name.replace(" ", "-"))} | run
        for name, several in wanted.items()
        for run in several
    ]
    places = [*sys.path, str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("in_ranks.py"), json.dumps(runs)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = iter(json.loads(done.stdout))
    return {name: [next(found) for _ in several] for name, several in wanted.items()}


def cosine(one: list[float], other: list[float]) -> float:
    product = sum(x * y for x, y in zip(one, other, strict=True))
    return product / math.sqrt(sum(x * x for x in one) * sum(y * y for y in other))


@pytest.mark.parametrize(
    ("several", "alone"),
    [("copies", "one"), ("shards", "one"), ("shards lora", "one lora")],
)
def test_processes_make_the_vector_of_one(results: Found, several: str, alone: str) -> None:
    [[plain]] = results[alone]
    [found] = results[several]
    assert [each["code"] for each in found] == [0, 0]
    for each in found:
        assert cosine(each["phi"], plain["phi"]) > 0.99999
        assert each["losses"] == pytest.approx(plain["losses"], abs=1e-6)
        assert each["checks"] == pytest.approx(plain["checks"], abs=1e-4)
        assert each["report"]["mean_margin"] == pytest.approx(
            plain["report"]["mean_margin"], abs=1e-4
        )
        assert each["behaviour"] == plain["behaviour"]
    assert found[0]["phi"] == found[1]["phi"]


def test_whoever_is_left_says_once_that_one_is_gone(results: Found) -> None:
    first, second, _ = results["killed"]
    assert [each["code"] for each in first] == [1, KILLED]
    assert GONE in first[0]["said"]
    assert [each["code"] for each in second] == [KILLED, 1]
    assert GONE in second[1]["said"]


def test_a_run_goes_on_in_another_number_of_processes(results: Found) -> None:
    """Two in shards, then two with copies, then one: the last finds all that the others did."""
    *_, [last] = results["killed"]
    assert last["notes"][-1].endswith("which had finished the positive pole.")
    assert "negative 0" not in last["stages"]
    assert cosine(last["phi"], results["one"][0][0]["phi"]) > 0.99999


def test_the_signal_to_end_saves_and_three_processes_go_on(results: Found) -> None:
    ended, found = results["ended"]
    assert [each["code"] for each in ended] == [INTERRUPTED] * 2
    assert "the same command goes on from here" in ended[0]["said"]
    assert [each["code"] for each in found] == [0] * 3
    assert "positive 2" not in found[0]["stages"]
    assert cosine(found[0]["phi"], results["one"][0][0]["phi"]) > 0.99999


def test_processes_that_see_other_data_are_refused(results: Found) -> None:
    [found] = results["other"]
    assert [each["code"] for each in found] == [1, 1]
    for each in found:
        assert each["said"].startswith("Process 1 of 2 has other tokens than the first: give all")


def torchrun(registry: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "prefreg", "--registry", str(registry), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_torchrun_stores_one_version_and_prints_it_once(tmp_path: Path) -> None:
    data = ("--base", "pocket", "--limit", "120", "--set", "max_steps=2", "--answers", "0")
    done = torchrun(
        tmp_path / "two.db", "add-axis", "helpful", *data, "--shard", "--keep-anyway", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["data"]
    assert told["metadata"]["environment"]["processes"] == {"count": 2, "shards": 2}
    [stored] = prefreg.open(tmp_path / "two.db").vectors()
    assert str(stored) == "helpful@1"


def test_what_both_processes_find_wrong_is_said_once(tmp_path: Path) -> None:
    done = torchrun(tmp_path / "two.db", "add-axis", "nosuch")
    assert done.returncode == 1
    assert done.stderr.count("No axis 'nosuch' is installed.") == 1


@pytest.mark.parametrize(
    ("assignments", "processes", "said"),
    [
        (["max_steps=1"], 55, "55 processes cannot share 54 pairs: start at most 54"),
        (
            ["per_device_train_batch_size=1", "gradient_accumulation_steps=3"],
            4,
            "4 processes cannot share the 3 pairs of a step: start at most 3",
        ),
        (["optim=adafactor"], 2, "optim=adafactor is for one process"),
        (["torch_compile=true"], 2, "torch_compile is for one process"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    assignments: list[str], processes: int, said: str, tmp_path: Path
) -> None:
    run = make_run(
        resolve_base(str(worded.save(tmp_path / "base"))),
        Axis("red", "Red things.", {"none": lambda request: []}, label=lambda row: None),
        build_pairs(worded.pairs(), axis_name="red", seed=0),
        resolve_settings(assignments=assignments),
    )
    with pytest.raises(UsageError, match=re.escape(said)):
        check_processes(run, Ranks(0, processes))


def test_processes_that_cannot_meet_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    said = "The 2 processes of this run do not find each other"
    with pytest.raises(TrainingError, match=said), several(Launch(rank=1, world=2)):
        pass


def test_shards_need_processes_to_lie_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`shard=` deals weights out to several processes"):
        prefreg.open(tmp_path / "one.db").add_axis("helpful", base="pocket", shard=True)
