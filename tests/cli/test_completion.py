"""What a shell is offered when the user asks it to complete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import prefreg
import prefreg.cli.main
from prefreg.composition.methods import BUILT_IN, built_in


@pytest.fixture
def offered(own: Path, monkeypatch: pytest.MonkeyPatch):
    """Complete a line as a shell asks for it, in this process."""
    monkeypatch.setenv("PREFREG_REGISTRY", str(own))
    registry = prefreg.open(own)
    registry.alias("helpful", 1, "stable")
    registry.tag("helpful", "1", "best")

    def complete(line: str) -> list[str]:
        shell = ShellComplete(prefreg.cli.main.prefreg, {}, "prefreg", "_PREFREG_COMPLETE")
        *words, written = line.split(" ")
        return [item.value for item in shell.get_completions(words, written)]

    return complete


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("comp", ["compress", "compose", "completion"]),
        ("show helpful@", ["helpful@1", "helpful@stable"]),
        ("compose help@s", ["help@stable"]),
        ("compose verbo", ["verbosity"]),
        ("generate verbose@", ["verbose@1"]),
        ("vectors h", ["helpful"]),
        ("eval --axes helpful,har", ["helpful,harmless"]),
        ("compose --method da", ["dare", "dare_ties"]),
        ("compose --method=sh", ["shrink"]),
        ("compose --base po", ["po", "pocket"]),  # the first asks the shell for folders
        ("compose --dtype ", ["float32", "bfloat16", "float16"]),
        ("search --tag b", ["best"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("show --registry missing.db h", []),
    ],
)
def test_values_are_offered(offered, line: str, wanted: list[str]) -> None:
    found = offered(line)
    assert found[: len(wanted)] == wanted or set(wanted) <= set(found)
    assert bool(found) == bool(wanted)


def test_an_axis_is_offered_among_the_installed_ones(offered) -> None:
    assert "psychocounsel" in offered("add-axis psy")


def test_the_names_of_methods_are_those_of_the_methods() -> None:
    assert tuple(built_in()) == BUILT_IN


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(run, shell: str) -> None:
    script = run("completion", shell).out
    assert "_PREFREG_COMPLETE" in script
    assert run("completion", shell, "--json").data == {"shell": shell, "script": script.rstrip()}


def test_bash_gets_what_follows_its_cut_and_loads_no_torch(own: Path) -> None:
    code = (
        "import json, sys\nfrom prefreg.cli.main import run\n"
        "try:\n    run([])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps('torch' in sys.modules))"
    )
    environment = {
        "PREFREG_REGISTRY": str(own),
        "COMP_LINE": "prefreg show helpful@",
        "COMP_WORDBREAKS": " \"'@><=;|&(:",
        "_PREFREG_COMPLETE": "bash_complete",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(own.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    *offers, torch = done.stdout.splitlines()
    assert offers == ["plain,1"]
    assert json.loads(torch) is False
