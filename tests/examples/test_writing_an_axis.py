"""docs/writing-an-axis.md, followed to the letter in an environment of a newcomer's own."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from scratch import Result, Scratch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "writing-an-axis.md").read_text("utf-8")
TEMPLATE = ROOT / "core" / "prefreg" / "authoring" / "template"

# The bundled model's answers change with each of its builds: that there is one is enough.
VARYING = ("generate",)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def steps() -> list[tuple[list[str], str]]:
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append((shlex.split(command), shown))
    return found


def agrees(shown: str, real: str) -> bool:
    """Whether an output is what the document shows; `…` stands for anything, lines too."""
    pattern = ".*".join(map(re.escape, re.split("…\n?", shown.strip())))
    return re.fullmatch(pattern, real.strip(), re.DOTALL) is not None


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], str, Result]]:
    """Type every command of the document; return each with what is shown and what happened."""
    scratch = Scratch(tmp_path_factory.mktemp("newcomer"))
    commands = steps()
    done: list[Result | None] = [None] * len(commands)
    here = scratch.folder
    for number, ((program, *arguments), _) in enumerate(commands):
        if program == "cd":
            here = (here / arguments[0]).resolve()
            done[number] = Result(0, "", "")
        elif program == "python":
            assert arguments.pop(0) == "-m"
            # The build's own environment would be filled from the index.
            done[number] = scratch.run(arguments[0], "--no-isolation", *arguments[1:], cwd=here)
        elif program != "prefreg" or arguments[0] == "new-axis":
            done[number] = scratch.run(program, *arguments, cwd=here)
    late = [number for number, result in enumerate(done) if result is None]
    results = scratch.prefreg(*(commands[number][0][1:] for number in late))
    for number, result in zip(late, results, strict=True):
        done[number] = result
    return [(*commands[n], result) for n, result in enumerate(done) if result is not None]


def test_every_command_works_and_says_what_is_shown(newcomer) -> None:
    assert len(newcomer) >= 10
    for command, shown, result in newcomer:
        assert result.code == 0, (command, result)
        if command[1:2] and command[1] in VARYING:
            assert len(result.out.splitlines()) == len(shown.splitlines()) == 1
        else:
            assert agrees(shown, result.out), (command, result.out)


def test_the_code_that_is_shown_is_what_a_new_package_has() -> None:
    written = (TEMPLATE / "src" / "PACKAGE" / "__init__.py.tmpl").read_text("utf-8")
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        assert block in written


def test_the_entry_point_that_is_shown_is_what_a_new_package_has() -> None:
    written = (TEMPLATE / "pyproject.toml.tmpl").read_text("utf-8")
    names = {"$name": "courtesy", "$package": "prefreg_axis_courtesy"}
    for name, value in names.items():
        written = written.replace(name, value)
    (block,) = blocks("toml")
    assert block in written
    assert tomllib.loads(block)


def test_the_row_that_is_shown_has_the_columns_of_a_new_package() -> None:
    (block,) = blocks("json")
    first = (TEMPLATE / "src" / "PACKAGE" / "sample.jsonl.tmpl").read_text("utf-8").splitlines()[0]
    assert json.loads(block).keys() == json.loads(first).keys()
