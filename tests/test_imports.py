"""What must answer at once loads no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "matplotlib")
REPORT = f"""
import json, sys
json.dump(sorted(set({HEAVY!r}) & sys.modules.keys()), sys.stderr)
"""


def loaded(code: str, folder: Path) -> list[str]:
    """Run code in a fresh interpreter and return the heavy packages that it imported."""
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PREFREG_")}
    result = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stderr.splitlines()[-1])


def test_importing_prefreg_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("import prefreg, prefreg.api; prefreg.open", tmp_path) == []


def test_plugins_of_axes_load_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("from prefreg.axes.plugins import load_axes; load_axes()", tmp_path) == []


def test_an_axis_in_a_file_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "tone.yaml").write_text("name: tone\nsummary: s\nsources: [{hub: org/set}]\n")
    code = f"import prefreg; prefreg.axis_from_yaml({str(tmp_path / 'tone.yaml')!r})"
    assert loaded(code, tmp_path) == []


GROUND = {
    *("config", "errors", "files", "json_values", "launch", "progress", "requests", "terms"),
    *("values", "wording"),
}


def test_help_loads_no_room(tmp_path: Path) -> None:
    code = (
        "from prefreg.cli.main import run\nrun(['--help'])\nimport sys\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('prefreg.')}\n"
        f"assert rooms <= {GROUND | {'cli'}}, rooms\n"
    )
    assert loaded(code, tmp_path) == []


COMMANDS = [
    ["--help"],
    ["--version"],
    ["compose", "--help"],
    ["add-axis", "--help"],
    ["sft", "--help"],
    ["axes"],
    ["axes", "--json"],
    ["axes", "--disable", "nobody"],
    ["check-axis", "--help"],
    ["check-axis", "nobody"],
    ["new-axis", "wit"],
    ["vectors"],
    ["bases"],
    ["show", "helpful"],
    ["verify"],
    ["compose", "helpful:one"],
    ["generate", "helpful"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_only_looks_loads_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    assert loaded(f"from prefreg.cli.main import run\nrun({command!r})", tmp_path) == []


def test_the_plain_sum_of_stored_vectors_loads_nothing_heavy(tmp_path: Path) -> None:
    command = ["compose", "helpful:1", "harmless:-0.5", "--output", "out"]
    assert loaded(f"from prefreg.cli.main import run\nrun({command!r})", tmp_path) == []
    assert (tmp_path / "out" / "model.safetensors").is_file()
