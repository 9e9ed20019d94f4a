"""The options of compose: what each does, what two of them do together, and what is no option."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., Any]
Refuse = Callable[..., str]
Options = tuple[str, ...]

BOTH = ("helpful:1", "verbosity:-0.5")


@pytest.fixture
def compose(run: Run, trained: Path, tmp_path: Path) -> Callable[..., Any]:
    """Compose both axes into a new folder, and return what the command said as JSON."""

    def call(output: str, *options: str) -> Any:
        result = run("--registry", trained, "compose", *BOTH, "-o", output, "--json", *options)
        assert result.code == 0, result
        return result.data

    return call


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def recipe(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "prefreg.json").read_text())
    return content


METHODS: dict[Options, str] = {
    (): "base + 1·helpful@1 - 0.5·verbosity@1",
    ("--method", "ties"): "base + ties(1·helpful@1 - 0.5·verbosity@1, density=0.2)",
    ("--method", "ties", "--set", "density=.4"): (
        "base + ties(1·helpful@1 - 0.5·verbosity@1, density=0.4)"
    ),
    ("--method", "dare", "--set", "seed=7"): (
        "base + dare(1·helpful@1 - 0.5·verbosity@1, density=0.5, seed=7)"
    ),
    ("--method", "gram-schmidt", "--protect", "verbose, help"): (
        "base + gram-schmidt(1·helpful@1 - 0.5·verbosity@1, protect=verbosity,helpful)"
    ),
}


def test_methods_and_settings_are_said_recorded_and_differ(compose) -> None:
    written = []
    for number, (options, formula) in enumerate(METHODS.items()):
        folder = str(number)
        assert compose(folder, *options)["formula"] == formula
        content = recipe(folder)
        assert content["formula"] == formula
        assert content["rule"] in (Path(folder) / "README.md").read_text()
        written.append((Path(folder) / "model.safetensors").read_bytes())
    assert len(set(written)) == len(METHODS)


def test_the_order_of_protection_decides_who_is_kept_whole(compose) -> None:
    compose("a", "--method", "gram-schmidt", "--protect", "helpful,verbosity")
    compose("b", "--method", "gram-schmidt", "--set", "protect=verbosity,helpful")
    assert (Path("a") / "model.safetensors").read_bytes() != (
        Path("b") / "model.safetensors"
    ).read_bytes()


def test_stochastic_rounding_is_the_seeds_and_never_more_than_a_step_off(compose) -> None:
    narrow = ("--dtype", "bfloat16")
    stochastic = (*narrow, "--rounding", "stochastic")
    compose("exact", "--dtype", "float32")
    compose("nearest", *narrow)
    for folder, options in {"a": (), "b": ("--seed", "0"), "c": ("--seed", "1")}.items():
        compose(folder, *stochastic, *options)
    assert recipe("c")["rounding"] == {"kind": "stochastic", "seed": 1}
    files = {name: (Path(name) / "model.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]
    exact, nearest, drawn = weights("exact"), weights("nearest"), weights("a")
    assert any(not drawn[name].equal(nearest[name]) for name in nearest)
    for name, tensor in drawn.items():
        off = (tensor.float() - exact[name]).abs()
        assert bool((off <= exact[name].abs() * 2.0**-7 + 1e-30).all()), name


def test_a_shard_size_cuts_the_weights_and_changes_none(compose) -> None:
    whole = compose("whole")["size"]
    compose("cut", "--max-shard-size", "1MB")
    index = json.loads(Path("cut/model.safetensors.index.json").read_text())
    shards = sorted(Path("cut").glob("*.safetensors"))
    assert len(shards) > 1
    assert {path.name for path in shards} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] < whole
    found = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    kept = weights("whole")
    assert found.keys() == kept.keys() == index["weight_map"].keys()
    assert all(found[name].equal(kept[name]) for name in kept)
    assert max(sum(t.nbytes for t in load_file(path).values()) for path in shards) <= 10**6


def test_a_durable_composition_waits_for_the_disk(compose, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        synced.append(Path(f"/dev/fd/{file}").resolve().name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    compose("quick")
    assert "model.safetensors" not in synced
    compose("sure", "--durable")
    assert {"model.safetensors", "config.json", "prefreg.json", "README.md"} <= set(synced)
    assert (Path("quick") / "prefreg.json").read_bytes() == Path("sure/prefreg.json").read_bytes()


def test_hashes_of_the_files_are_recorded_when_asked_for(compose) -> None:
    compose("plain")
    assert recipe("plain")["files"] is None
    compose("hashed", "--hash", "--max-shard-size", "1MB")
    recorded = recipe("hashed")["files"]
    written = {path.name: path for path in Path("hashed").iterdir()}
    assert recorded.keys() == written.keys() - {"prefreg.json", "README.md"}
    for name, digest in recorded.items():
        assert hashlib.sha256(written[name].read_bytes()).hexdigest() == digest
        assert digest in written["README.md"].read_text()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--method", "ties", "--set", "density=0.3"),
        ("--dtype", "bfloat16", "--rounding", "stochastic", "--seed", "5"),
        ("--max-shard-size", "1MB", "--hash", "--durable"),
    ],
    ids=" ".join,
)
def test_a_plan_tells_what_is_then_written(compose, tmp_path: Path, options: Options) -> None:
    plan = compose("out", "--plan", *options)
    assert list(tmp_path.iterdir()) == []
    assert plan["output"] == "out"
    assert plan["peak_memory"] > plan["bytes_written"] > 0
    assert plan["seconds"] > 0
    assert plan["bytes_read"] == sum(item["bytes"] for item in plan["reads"])
    assert plan["bytes_written"] == sum(item["bytes"] for item in plan["writes"])
    done = compose("out", *options)
    assert (plan["formula"], plan["base"]) == (done["formula"], done["base"])
    assert plan["rule"] == recipe("out")["rule"]
    assert {item["file"]: item["bytes"] for item in plan["writes"]} == {
        path.name: path.stat().st_size for path in Path("out").glob("*.safetensors")
    }


def test_a_plan_for_people_has_formula_sizes_and_time(run: Run, trained: Path) -> None:
    result = run("--registry", trained, "compose", *BOTH, "--plan", "--method", "ties")
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert lines["formula"].startswith("base + ties(1·helpful@1 - 0.5·verbosity@1")
    assert lines["writes"].endswith("MiB to composed")
    assert lines["time"].startswith("about ")
    assert result.err == ""


def test_options_win_over_a_recipe(compose, run: Run, trained: Path) -> None:
    compose("one", "--method", "ties", "--set", "density=0.4", "--dtype", "bfloat16")
    again = ("--registry", trained, "compose", "--recipe", "one/prefreg.json")
    assert run(*again, "-o", "two", "--set", "density=0.6", "--hash").code == 0
    content = recipe("two")
    assert (content["options"], content["dtype"]) == ({"density": 0.6}, "bfloat16")
    assert content["files"] is not None
    assert run(*again, "-o", "three", "--method", "linear", "--dtype", "float32").code == 0
    assert recipe("three")["formula"] == "base + 1·helpful@1 - 0.5·verbosity@1"


WRONG = [
    (["--method", "tise"], "Did you mean 'ties'?"),
    (["--method", "ties", "--set", "density"], "Write --set KEY=VALUE"),
    (["--method", "ties", "--set", "=.2"], "Write --set KEY=VALUE"),
    (["--method", "ties", "--set", "density=0"], "density=0 is not a number above 0"),
    (["--method", "ties", "--set", "density=1.5"], "at most 1"),
    (["--method", "ties", "--set", "density=nan"], "density=nan is not a number"),
    (["--method", "ties", "--set", "densty=.2"], "has no option 'densty'. It has: density"),
    (["--method", "dare", "--set", "seed=-1"], "seed=-1 is not a whole number"),
    (["--method", "dare", "--set", f"seed={'9' * 400}"], "is not a whole number"),
    (["--set", "density=.2"], "The method linear has no option 'density'"),
    (["--protect", "helpful"], "The method linear has no option 'protect'"),
    (["--method", "gram-schmidt", "--protect", "harmless"], "'harmless' is protected"),
    (["--rounding", "upwards"], "'upwards' is not one of"),
    (["--seed", "one"], "'one' is not a valid integer"),
    (["--max-shard-size", "5 bananas"], "'5 bananas' is no size"),
    (["--max-shard-size", "0GB"], "'0GB' is no size"),
    (["--device", "toaster"], "'toaster'"),
    (["--max-rank", "2"], "add --as adapter to --max-rank"),
]


@pytest.mark.parametrize(("options", "reason"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_told_before_anything_is_written(
    refuse: Refuse, trained: Path, options: list[str], reason: str
) -> None:
    command = ("--registry", trained, "compose", *BOTH, *options)
    assert reason in refuse(2, *command)
    assert reason in refuse(2, *command, "--plan", "--json")
