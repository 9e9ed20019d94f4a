"""The example packages, installed as third parties' are, beside the axes that we ship."""

import json
from pathlib import Path
from typing import Any

import pytest

from scratch import Scratch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("prefreg-axis-*"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """Return an environment with the packages."""
    made = Scratch(tmp_path_factory.mktemp("examples"))
    made.install(*EXAMPLES)
    return made


def data(scratch: Scratch, *commands: str) -> list[Any]:
    results = scratch.prefreg(*([*command.split(), "--json"] for command in commands))
    assert all(result.code == 0 for result in results), results
    return [json.loads(result.out)["data"] for result in results]


def hashes(listed: Any) -> dict[str, str]:
    return {f"{each['axis']}@{each['version']}": each["sha256"] for each in listed["vectors"]}


def test_the_packages_are_listed_beside_ours(scratch: Scratch) -> None:
    (found,) = data(scratch, "axes")
    origins = {each["name"]: each["distribution"] for each in found["axes"]}
    assert origins["formality"] == "prefreg-axis-formality"
    assert origins["fluency"] == "prefreg-axis-fluency"
    assert origins["helpful"] == "prefreg"
    assert found["broken"] == []


def test_an_added_axis_composes_with_a_shipped_vector_and_changes_none(scratch: Scratch) -> None:
    before, added, composed, after = data(
        scratch,
        "vectors",
        "add-axis formality --base pocket --set max_steps=4 --keep-anyway",
        "compose formality:1 helpful:0.5",
        "vectors",
    )
    assert (added["axis"], added["version"]) == ("formality", 1)
    assert added["metadata"]["plugin"]["distribution"] == "prefreg-axis-formality"
    assert added["metadata"]["data"]["source"] == "pocket"
    assert composed["formula"] == "base + 1·formality@1 + 0.5·helpful@1"
    assert (scratch.folder / "composed" / "model.safetensors").is_file()
    assert hashes(before)
    assert hashes(after) == hashes(before) | {"formality@1": added["sha256"]}


def test_a_vector_outlives_its_package(scratch: Scratch) -> None:
    done = scratch.run("pip", "uninstall", "--yes", "--quiet", "prefreg-axis-formality")
    assert done.code == 0, done.err
    axes, shown = data(scratch, "axes", "show formal")
    assert "formality" not in {each["name"] for each in axes["axes"]}
    assert (shown["axis"], shown["version"]) == ("formality", 1)


def test_the_tests_of_the_packages_pass(scratch: Scratch) -> None:
    folders = [scratch.folder / example.name for example in EXAMPLES]
    scratch.run("pip", "install", "--quiet", *folders)
    done = scratch.run("pytest", "-q", "-W", "error", "--import-mode=importlib", *folders)
    assert done.code == 0, done.out
