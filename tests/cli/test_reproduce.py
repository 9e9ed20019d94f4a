"""The experiments from the command line: the list, wrong input, and a run that is killed."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
Refuse = Callable[..., str]

PREFREG = Path(sys.executable).with_name("prefreg")
SHORT = ("--limit", "60", "--set", "max_steps=2", "--prompts", "24", "--max-new-tokens", "6")


def test_without_a_name_the_experiments_are_listed(run: Run) -> None:
    data = run("reproduce", "--json").data
    names = [each["name"] for each in data]
    assert {"extraction", "grid", "extension", "correlation", "retention"} <= set(names)
    shown = run("reproduce").out
    assert all(f"\n{name} " in shown for name in names)


def test_wrong_input_is_told_and_leaves_everything(refuse: Refuse, tmp_path: Path) -> None:
    assert "Did you mean 'retention'" in refuse(2, "reproduce", "retension")
    message = refuse(2, "reproduce", "grid", "--seeds", "0,x")
    assert "--seeds" in message
    assert "'x' is no seed" in message
    assert "takes 3 axes" in refuse(2, "reproduce", "extension", "--axes", "helpful,harmless")
    assert "'helpfull'" in refuse(1, "reproduce", "retention", "--axes", "helpfull")
    assert "no pack of pairs" in refuse(1, "reproduce", "grid", "--data", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    assert "something else" in refuse(1, "reproduce", "grid", "-o", tmp_path / "mine")
    (tmp_path / "file").write_text("precious")
    assert "is a file" in refuse(1, "reproduce", "grid", "-o", tmp_path / "file")


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is there")
def test_without_lm_eval_it_says_what_to_install(refuse: Refuse, tmp_path: Path) -> None:
    said = refuse(1, "reproduce", "commonsense", "-o", tmp_path / "out")
    assert "pip install 'prefreg[lm-eval]'" in said


def test_a_run_that_was_killed_goes_on(tmp_path: Path, run: Run, refuse: Refuse) -> None:
    out = tmp_path / "out"
    call = ["reproduce", "extraction", "--axes", "helpful", "--seeds", "0,1"]
    arguments = [*call, *SHORT, "--output", str(out), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [PREFREG, "--registry", "none.db", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("Training helpful, seed 1"):
            break
    process.kill()
    process.communicate()
    assert [line.split(" …")[0] for line in seen] == [
        "Training helpful, seed 0",
        "Training helpful, seed 1",
    ]
    assert not (out / "results.json").exists()
    before = run("--registry", out / "registry.db", "vectors", "--json").data["vectors"]
    again = run("--registry", "none.db", *arguments)
    assert again.code == 0, again.err
    assert "seed 0" not in again.err
    assert again.err.count("Training ") == 1
    assert again.data["folder"] == str(out)
    kept = json.loads((out / "results.json").read_text("utf-8"))
    assert kept["data"] == again.data["data"]
    after = run("--registry", out / "registry.db", "vectors", "--json").data["vectors"]
    hashes = [{each["sha256"] for each in listed} for listed in (before, after)]
    assert len(hashes[1]) == 2
    assert hashes[0] < hashes[1]
    # What is done is answered at once, and other settings need another folder.
    done = run("--registry", "none.db", *arguments)
    assert (done.err, done.data) == ("", again.data)
    assert "was begun with prompts 24, not 30" in refuse(
        1, "--registry", "none.db", *arguments[:-1], "--prompts", "30"
    )
