"""What each command does when all is well."""

import hashlib
import io
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import prefreg
import prefreg.cli.main
from prefreg import pocket

pytestmark = pytest.mark.slow
COMMANDS = sorted(prefreg.cli.main.prefreg.commands)
MODEL = pocket.model_dir() / "model.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command: str) -> None:
    result = run(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: prefreg {command}")
    for option in ("--registry", "--json", "--quiet"):
        assert option in result.out


def test_the_commands_of_the_first_visit_are_there(run) -> None:
    result = run("--help")
    assert result.code == 0
    contract = "axes add-axis compose generate vectors show bases alias rm verify gc doctor"
    assert set(contract.split()) <= set(COMMANDS)


def test_version_is_that_of_the_distribution(run) -> None:
    result = run("--version")
    assert (result.code, result.out) == (0, "prefreg, version 0.1.0\n")


@pytest.mark.parametrize("before", [True, False])
def test_common_options_stand_before_or_after_the_command(run, trained, before: bool) -> None:
    options = ["--registry", trained, "--json"]
    result = run(*options, "vectors") if before else run("vectors", *options)
    assert [(v["axis"], v["version"]) for v in result.data["vectors"]] == [
        ("helpful", 1),
        ("verbosity", 1),
    ]


def test_the_later_of_two_registries_wins(run, trained) -> None:
    assert run("--registry", "missing.db", "vectors", "--registry", trained).code == 0


def test_an_option_wins_over_the_environment(run, trained, monkeypatch) -> None:
    monkeypatch.setenv("PREFREG_REGISTRY", "missing.db")
    assert run("vectors", "--registry", trained).code == 0
    monkeypatch.setenv("PREFREG_REGISTRY", str(trained))
    assert "helpful@1" in run("vectors").out


def test_a_registry_can_be_named_by_url(run, trained) -> None:
    assert "helpful@1" in run("vectors", "--registry", f"sqlite:///{trained}").out


def test_quiet_says_nothing_but_what_was_asked_for(run, trained) -> None:
    result = run("-q", "--registry", trained, "compose", "helpful:1")
    assert (result.code, result.out, result.err) == (0, "", "")
    result = run("-q", "--registry", trained, "vectors", "--json")
    assert len(result.data["vectors"]) == 2
    result = run("-q", "--registry", trained, "generate", "-p", "Hello", "--base", "pocket")
    assert result.out.strip()


@pytest.mark.parametrize(
    "command",
    [
        ["axes"],
        ["vectors"],
        ["show", "helpful@1"],
        ["bases"],
        ["alias", "helpful"],
        ["diff", "helpful@1", "verbosity@1"],
        ["search", "helpful"],
        ["doctor"],
        ["check-axis", "helpful", "--no-train", "--limit", "40"],
        ["add-axis", "helpful", "--base", "pocket", "--limit", "40", "--dry-run"],
        ["compose", "helpful:1", "--plan"],
    ],
    ids=" ".join,
)
def test_quiet_keeps_what_a_command_was_asked_to_show(run, trained, command) -> None:
    result = run("-q", "--registry", trained, *command)
    assert result.out.strip()
    assert result.err == ""


JSON = [
    ["axes"],
    ["vectors"],
    ["vectors", "helpful"],
    ["show", "verbose@1"],
    ["bases"],
    ["alias", "helpful"],
    ["verify"],
    ["doctor"],
    ["compose", "helpful:1", "--plan"],
    ["compose", "helpful:1"],
    ["generate", "helpful:1", "-p", "Hello", "--max-new-tokens", "4"],
    ["add-axis", "helpful", "--base", "pocket", "--limit", "40", "--dry-run"],
]


@pytest.mark.parametrize("command", JSON, ids=" ".join)
def test_json_is_all_that_stdout_holds(run, trained, command: list[str]) -> None:
    result = run(*command, "--json", "--registry", trained)
    assert result.code == 0
    document = json.loads(result.out, parse_constant=lambda name: pytest.fail(name))
    assert list(document) == ["schema", "command", "data"]
    assert (document["schema"], document["command"]) == (1, command[0])


def test_a_version_is_shown_with_its_record(run, trained) -> None:
    data = run("show", "help@1", "--json", "--registry", trained).data
    assert (data["axis"], data["version"], data["kind"]) == ("helpful", 1, "dense")
    assert data["base"]["name"] == "pocket"
    training = data["metadata"]["training"]
    assert training["settings"]["max_steps"] == 8
    assert training["defaults"]["loss_type"] == ["sigmoid"]
    assert training["shortcuts"] == {"shared_prompt": {"on": True}, "sorted_parts": {"on": True}}
    assert data["metadata"]["environment"]["reference"]["negative"] == "switched"
    assert data["metadata"]["data"]["source"] == "pocket"
    assert set(data["metadata"]["poles"]) == {"positive", "negative"}
    text = run("show", "helpful", "--registry", trained).out
    assert data["sha256"] in text
    headline, accuracy, margin, cosine, size = text.splitlines()[:5]
    assert headline == "helpful@1 on pocket"
    report = data["metadata"]["poles"]["positive"]["report"]
    assert accuracy.startswith(f"accuracy  {report['accuracy']:.1%} (positive), ")
    assert margin.startswith(f"margin    {report['mean_margin']:.3g} (positive), ")
    assert cosine.startswith(f"cosine    {data['metadata']['geometry']['cosine_poles']:.3f} ")
    assert size == "size      3.2 MiB inside the database (dense, F32)"
    assert not any(python in text for python in ("{'", "['", "None", "True", "False"))


def test_axes_counts_the_stored_versions(run, trained) -> None:
    data = run("axes", "--json", "--registry", trained).data
    counts = {axis["name"]: axis["versions"] for axis in data["axes"]}
    assert (counts["helpful"], counts["verbosity"], counts["harmless"]) == (1, 1, 0)


def test_bases_names_the_bundled_model(run, trained) -> None:
    (base,) = run("bases", "--json", "--registry", trained).data["bases"]
    assert (base["name"], base["path"]) == ("pocket", None)


def test_composing_twice_gives_the_same_bytes(run, trained, tmp_path: Path) -> None:
    run("compose", "helpful:1", "verbose:-0.3", "-o", "a", "--registry", trained)
    run("compose", "verbosity@1:-.3", "help:1e0", "-o", "b", "--registry", trained)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_composition_comes_again_from_its_own_recipe(run, trained, tmp_path: Path) -> None:
    command = ("--registry", trained, "compose")
    run(*command, "helpful:0.7", "verbose:-0.3", "--dtype", "bfloat16", "-o", "a")
    assert run(*command, "--recipe", "a/prefreg.json", "-o", "b").code == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_dtype_may_be_written_short_and_is_recorded_by_its_name(
    run, refuse, trained, tmp_path: Path
) -> None:
    command = ("--registry", trained, "compose", "helpful:0.7")
    run(*command, "--dtype", "bfloat16", "-o", "a")
    assert run(*command, "--dtype", "BF16", "-o", "b").code == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "prefreg.json").read_text())["dtype"] == "bfloat16"
    assert "'fp8' is not one of" in refuse(2, *command, "--dtype", "fp8", "-o", "c")
    assert prefreg.AxisRequest("helpful", dtype="fp32").dtype == "float32"
    with pytest.raises(prefreg.UsageError, match=r"'fp16' is no dtype\. Use float32, bfloat16"):
        prefreg.AxisRequest("helpful", dtype="fp16")


def test_the_default_output_is_a_folder_named_composed(run, trained, tmp_path: Path) -> None:
    data = run("compose", "helpful:1", "--json", "--registry", trained).data
    assert data["path"] == "composed"
    assert data["formula"] == "base + 1·helpful@1"
    recipe = json.loads((tmp_path / "composed/prefreg.json").read_text())
    assert recipe["formula"] == data["formula"]
    (term,) = recipe["terms"]
    assert (term["axis"], term["version"], term["eta"]) == ("helpful", 1, 1)
    stored = run("show", "helpful@1", "--json", "--registry", trained).data
    assert term["sha256"] == stored["sha256"]
    assert recipe["base"]["weights"] == stored["base"]["weights"]


def test_zero_eta_gives_the_base_byte_for_byte(run, trained, tmp_path: Path) -> None:
    run("compose", "helpful:0", "verbose:-0", "--registry", trained)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        copy = (tmp_path / "composed" / name).read_bytes()
        assert copy == (pocket.model_dir() / name).read_bytes()


def test_transformers_loads_a_composition(run, trained) -> None:
    run("compose", "helpful:1", "-o", "out", "--registry", trained)
    composed = AutoModelForCausalLM.from_pretrained("out").state_dict()
    base = AutoModelForCausalLM.from_pretrained(pocket.model_dir()).state_dict()
    assert composed.keys() == base.keys()
    assert any(not composed[name].equal(base[name]) for name in base)


def test_a_plan_writes_nothing(run, trained, tmp_path: Path) -> None:
    data = run("compose", "helpful:1", "--plan", "--json", "--registry", trained).data
    assert list(tmp_path.iterdir()) == []
    run("compose", "helpful:1", "--registry", trained)
    assert data["bytes_written"] == (tmp_path / "composed/model.safetensors").stat().st_size
    assert data["formula"] == "base + 1·helpful@1"


def test_forcing_adds_a_vector_to_another_base(run, trained, base_copy: Path) -> None:
    weights = bytearray((base_copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base_copy / "model.safetensors").write_bytes(weights)
    command = ("compose", "helpful:1", "--base", base_copy, "--registry", trained)
    assert run(*command).code == 1
    assert run(*command, "--force-base").code == 0


def test_an_equal_folder_is_the_same_base(run, trained, base_copy: Path, tmp_path: Path) -> None:
    run("compose", "helpful:1", "--registry", trained, "-o", "a")
    assert (
        run("compose", "helpful:1", "--base", base_copy, "--registry", trained, "-o", "b").code == 0
    )
    assert sha256(tmp_path / "a/model.safetensors") == sha256(tmp_path / "b/model.safetensors")


def test_generate_answers_every_prompt_and_writes_nothing(run, trained, tmp_path: Path) -> None:
    asked = ["-p", "What colour is the boat?", "-p", "Hello"]
    command = ("generate", "helpful:1", *asked, "--registry", trained)
    data = run(*command, "--json").data
    assert data["terms"] == ["helpful:1"]
    assert [each["prompt"] for each in data["answers"]] == asked[1::2]
    shown = [f"> {each['prompt']}\n{each['answer']}" for each in data["answers"]]
    assert run(*command).out == "\n\n".join(shown) + "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_dash_reads_the_prompt_from_standard_input(run, refuse, trained, monkeypatch) -> None:
    command = ("generate", "helpful:1", "--registry", trained)
    wanted = run(*command, "-p", "What colour is\nthe boat?").out
    monkeypatch.setattr("sys.stdin", io.StringIO("What colour is\nthe boat?\n"))
    assert run(*command, "-p", "-").out == wanted
    assert "give `-p -` once" in refuse(2, *command, "-p", "-", "-p", "-")


def test_drawn_answers_depend_on_the_seed_alone(run, trained) -> None:
    command = ("generate", "-p", "Tell me about the boat.", "--temperature", "1.5", "--base")
    command += ("pocket", "--registry", trained, "--seed")
    first, again, other = (run(*command, seed).out for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_an_alias_is_set_used_and_deleted_and_its_history_kept(run, own: Path) -> None:
    command = ("--registry", own)
    data = run(*command, "alias", "help@1", "stable", "--json").data
    assert data == {"axis": "helpful", "alias": "stable", "version": 1}
    assert run(*command, "show", "helpful@stable", "--json").data["aliases"] == ["stable"]
    assert run(*command, "compose", "helpful@stable:1", "--plan").code == 0
    assert run(*command, "rm", "helpful@1").code == 1
    assert run(*command, "alias", "helpful@stable", "--delete").code == 0
    assert run(*command, "show", "helpful@stable").code == 1
    history = run(*command, "alias", "helpful", "--json").data["history"]
    assert [event["alias"] for event in history] == ["stable", "stable"]
    assert history[0]["action"] != history[1]["action"]


def test_an_alias_can_be_deleted_by_its_own_argument(run, own: Path) -> None:
    run("--registry", own, "alias", "helpful@1", "stable")
    data = run("--registry", own, "alias", "helpful", "stable", "--delete", "--json").data
    assert data == {"axis": "helpful", "alias": "stable", "version": None}


def test_a_removed_version_is_gone(run, own: Path) -> None:
    data = run("--registry", own, "rm", "verbose@1", "--json").data
    assert (data["axis"], data["version"]) == ("verbosity", 1)
    assert "verbosity" not in run("--registry", own, "vectors").out
    assert run("--registry", own, "compose", "verbosity:1").code == 1


def test_force_removes_an_aliased_version(run, own: Path) -> None:
    run("--registry", own, "alias", "helpful@1", "stable")
    assert run("--registry", own, "rm", "helpful@1").code == 1
    assert run("--registry", own, "rm", "helpful@1", "--force").code == 0


def test_gc_gives_the_space_of_removed_versions_back(run, own: Path) -> None:
    before = own.stat().st_size
    run("--registry", own, "rm", "helpful@1")
    data = run("--registry", own, "gc", "--json").data
    assert data["bytes"] >= 0
    assert own.stat().st_size < before / 1.5
    assert run("--registry", own, "verify").code == 0


def test_gc_removes_what_killed_processes_left(run, own: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(own.parent))
    monkeypatch.setattr("tempfile.tempdir", None)
    dead = f"{'0' * 8}-1-1-{'0' * 8}"  # of another machine, long ago
    for name in (f".out.{dead}.partial", f"prefreg-{dead}"):
        (own.parent / name).mkdir()
        (own.parent / name / "weights").write_bytes(b"half")
        os.utime(own.parent / name, (0, 0))
    assert run("--registry", own, "gc", "--json").data["files"] == 2
    assert sorted(path.name for path in own.parent.iterdir()) == [own.name]


def test_gc_empties_the_cache_when_asked(run, own: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "kept"))
    run("--registry", own, "compose", "helpful:1")
    assert run("--registry", own, "gc", "--cache", "--json").data["cache_bytes"] > 0
    assert not (tmp_path / "kept").exists()


def test_verify_is_content_with_an_intact_registry(run, trained) -> None:
    assert run("--registry", trained, "verify", "--json").data == {"problems": []}


def test_doctor_counts_the_versions(run, trained) -> None:
    data = run("--registry", trained, "doctor", "--json").data
    assert data["facts"]["registry"].split(" (")[1].startswith("2 versions, ")
    assert "torch" in data["facts"]["packages"]
    assert not [problem for problem in data["problems"] if "disk" not in problem]


def test_doctor_tells_what_is_wrong_with_a_registry(run, own: Path) -> None:
    with sqlite3.connect(own) as connection:
        connection.execute("UPDATE blobs SET data = zeroblob(size)")
    connection.close()
    data = run("--registry", own, "doctor", "--json").data
    assert len([problem for problem in data["problems"] if "@1" in problem]) == 2


def test_add_axis_stores_the_next_version(run, own: Path) -> None:
    command = ("add-axis", "help", "--limit", "60", "--set", "max_steps=2", "--keep-anyway")
    command += ("--note", "second", "--seed", "3", "--answers", "4", "--guard", "accuracy=0.1")
    result = run("--registry", own, *command, "--json")
    assert (result.data["axis"], result.data["version"]) == ("helpful", 2)
    assert result.data["note"] == "second"
    training, poles = (result.data["metadata"][name] for name in ("training", "poles"))
    assert training["seed"] == 3
    assert training["guards"]["accuracy"] == 0.1
    assert [answers["step"] for answers in poles["positive"]["answers"]] == [0, 2]
    assert "Base model: pocket" in result.err
    assert "helpful@2" in run("--registry", own, "compose", "helpful:1", "--plan").out


def test_a_guard_that_there_is_none_of_is_named_before_anything_is_read(run) -> None:
    result = run("add-axis", "helpful", "--base", "nowhere", "--guard", "repetition=0.2")
    assert result.code == 2
    assert "no guard 'repetition'. Did you mean 'repetition_rise'?" in result.err


def test_add_axis_creates_the_registry_and_trains_on_a_file(run, tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("w") as file:
        for row in pocket.rows("helpful", seed=0, limit=40):
            chosen, rejected = row["response_0"], row["response_1"]
            pair = {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
            file.write(json.dumps(pair) + "\n")
    command = ("add-axis", "helpful", "--data", "rows.jsonl", "--set", "max_steps=2")
    result = run(*command, "--keep-anyway", "--json", "--registry", "new.db")
    assert result.data["metadata"]["data"]["source"] == "file"
    assert result.data["metadata"]["data"]["origin"] == "rows.jsonl"
    assert (tmp_path / "new.db").is_file()


def test_the_same_seed_trains_the_same_vector(run, trained) -> None:
    command = ("add-axis", "helpful", "--base", "pocket", "--limit", "200")
    command += ("--set", "max_steps=8", "--keep-anyway", "--json", "--registry", "again.db")
    again = run(*command).data
    first = run("show", "helpful@1", "--json", "--registry", trained).data
    assert again["sha256"] == first["sha256"]


def test_a_dry_run_trains_and_writes_nothing(run, tmp_path: Path) -> None:
    command = ("add-axis", "helpful", "--base", "pocket", "--limit", "40", "--dry-run")
    data = run(*command, "--json", "--registry", "new.db").data
    assert list(tmp_path.iterdir()) == []
    assert data["audit"]
    assert len(data["examples"]) == 3
    assert "example 1" in run(*command, "--registry", "new.db").out


@pytest.fixture(scope="session")
def installation(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay prefreg out as a wheel does, with the starter inside the package."""
    site = tmp_path_factory.mktemp("site")
    package = Path(prefreg.__file__).parent
    shutil.copytree(package, site / "prefreg", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(trained, site / "prefreg" / "starter.db")
    return site


def run_installed(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefreg", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(site),
            "PREFREG_NO_STARTER": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_starter_stands_in_for_a_missing_registry(installation: Path, tmp_path: Path) -> None:
    starter = installation / "prefreg" / "starter.db"
    starter.chmod(0o444)
    before = sha256(starter)
    composed = run_installed(installation, tmp_path, "compose", "helpful:1", "verbose:-0.3")
    assert composed.returncode == 0, composed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["composed"]
    assert "helpful@1" in run_installed(installation, tmp_path, "vectors").stdout
    assert sha256(starter) == before
    assert {path.name for path in starter.parent.glob("starter*")} == {"starter.db"}


def test_writers_never_change_the_starter(installation: Path, tmp_path: Path) -> None:
    starter = installation / "prefreg" / "starter.db"
    before = sha256(starter)
    for command in (["rm", "helpful@1"], ["rename", "helpful", "kind"], ["gc"]):
        changed = run_installed(installation, tmp_path, *command)
        assert (changed.returncode, changed.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []
    tagged = run_installed(installation, tmp_path, "tag", "helpful@1", "good")
    assert tagged.returncode == 0, tagged.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["registry.db"]  # it was taken over
    assert sha256(starter) == before


def test_a_named_registry_is_not_replaced_by_the_starter(installation, tmp_path: Path) -> None:
    result = run_installed(installation, tmp_path, "vectors", "--registry", "missing.db")
    assert (result.returncode, result.stdout) == (1, "")


def test_the_sum_is_finite_and_reported_as_numbers(run, trained) -> None:
    data = run("--registry", trained, "compose", "helpful:1e6", "--json").data
    assert math.isfinite(data["survival"]["gain"])
