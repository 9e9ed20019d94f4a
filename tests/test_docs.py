"""What the documents show is what the commands do."""

import json
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

import prefreg
from prefreg.axes import hookspecs
from prefreg.axes.plugins import read_bases, read_plugin
from prefreg.cli.main import prefreg as group
from prefreg.cli.main import run
from prefreg.requests import describe_fields

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    {
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        *(ROOT / name for name in ("benchmarks/README.md", "plugins/README.md")),
        *ROOT.glob("tools/*/README.md"),
        *ROOT.glob("examples/*/README.md"),
    }
)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, with what ships beneath it and rows to fine-tune on."""
    monkeypatch.delenv("PREFREG_NO_STARTER")
    row = {"instruction": "What colour is the boat?", "output": "The boat is red."}
    (tmp_path / "instructions.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def console_steps(document: Path) -> list[tuple[list[str], str]]:
    steps = []
    for block in re.findall(r"```console\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            steps.append((shlex.split(command), output))
    return steps


def without_hashes(text: str) -> str:
    return re.sub(r"sha256 [0-9a-f]{12}", "sha256 …", text)


def test_the_console_blocks_of_the_readme_are_what_happens(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = console_steps(ROOT / "README.md")
    assert len(steps) >= 6
    for (program, *arguments), expected in steps:
        assert program == "prefreg"
        assert run(arguments) == 0, arguments
        shown = capsys.readouterr()
        # A terminal shows both; the note about the base comes first.
        assert without_hashes(shown.err + shown.out) == without_hashes(expected), arguments


PYTHON = ("README.md", "docs/python.md", "docs/evaluating.md", "docs/pocket.md")


@pytest.mark.parametrize("document", PYTHON)
def test_the_python_of_a_document_runs_as_written(
    clone: Path, document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools" / "pocket")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text("utf-8"), re.DOTALL)
    assert blocks
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)


def shell_commands(document: Path) -> list[list[str]]:
    """Return the commands of ours that a document shows without their output."""
    commands = []
    text = document.read_text("utf-8")
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        values: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                values[assigned[1]] = assigned[2]
            for name, value in values.items():
                line = line.replace(f"${name}", value)
            if line.startswith("prefreg "):
                commands.append(shlex.split(line, comments=True)[1:])
    return commands


def test_the_commands_that_documents_show_are_understood(tmp_path: Path) -> None:
    commands = [(page, command) for page in DOCUMENTS for command in shell_commands(page)]
    assert len(commands) >= 20
    for folder in ("my-sft-model", "base", "base-3b", "raw-model", "helpful-dpo", "my-model"):
        (tmp_path / folder).mkdir()
    for file in (
        "dev.jsonl",
        "prompts.jsonl",
        "alpaca.jsonl",
        "instructions.jsonl",
        "team.zip",
        "private.pem",
        "public.pem",
    ):
        (tmp_path / file).touch()
    for page, (name, *arguments) in commands:
        command = group.get_command(click.Context(group), name)
        assert command is not None, (page.name, name)
        command.make_context(name, arguments)  # refuses what it does not know


KINDS: dict[str, Any] = {"text": str, "number": (int, float), "bool": bool, "any": object}


class Shapes:
    """The shapes that docs/commands.md names and writes by its own rules."""

    def __init__(self, named: dict[str, Any]) -> None:
        self.named = named

    def fits(self, shape: Any, value: Any) -> bool:
        """Whether a value has a shape."""
        if isinstance(shape, str):
            if shape in self.named:
                return self.fits(self.named[shape], value)
            if isinstance(value, bool):  # which is an int, too
                return shape in ("bool", "any")
            return isinstance(value, KINDS[shape])
        if isinstance(shape, list):
            (entry,) = shape
            return isinstance(value, list) and all(self.fits(entry, each) for each in value)
        return isinstance(value, dict) and self.has_keys(self.all_keys(shape), value)

    def has_keys(self, shape: dict[str, Any], value: dict[str, Any]) -> bool:
        rest = dict(value)
        for key, part in shape.items():
            name, optional = key.removesuffix("?"), key.endswith("?")
            if name == "*":
                wanted, rest = rest, {}
            elif name in rest:
                wanted = {name: rest.pop(name)}
            elif optional:
                continue
            else:
                return False
            for each in wanted.values():
                if not (optional and each is None) and not self.fits(part, each):
                    return False
        return not rest

    def all_keys(self, shape: dict[str, Any]) -> dict[str, Any]:
        """Take the keys of the shape that `+` names over; its own come first, and win."""
        own = {key: part for key, part in shape.items() if key != "+"}
        more = self.all_keys(self.named[shape["+"]]) if "+" in shape else {}
        return own | {key: part for key, part in more.items() if key.removesuffix("?") not in own}


def test_shapes_tell_documents_apart() -> None:
    shapes = Shapes({"pair": {"first": "text", "second?": "number"}})
    good: list[tuple[Any, Any]] = [
        ("pair", {"first": "a", "second": 1}),
        ("pair", {"first": "a", "second": None}),
        ({"+": "pair", "third": ["bool"]}, {"first": "a", "third": [True, False]}),
        ({"*": "number"}, {"x": 1, "y": 2.5}),
        ({"*?": "pair"}, {"x": None}),
    ]
    bad: list[tuple[Any, Any]] = [
        ("pair", {"second": 1}),
        ("pair", {"first": None}),
        ("pair", {"first": "a", "third": 1}),
        ({"+": "pair", "third": ["bool"]}, {"first": "a", "third": [1]}),
        ({"*": "number"}, {"x": "1"}),
        ({"*": "number"}, {"x": True}),
    ]
    assert [each for each in good if not shapes.fits(*each)] == []
    assert [each for each in bad if shapes.fits(*each)] == []


def test_every_json_document_has_the_shape_that_is_documented(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    (_, named), *cases = re.findall(r"<!-- (.*?) -->\n```json\n(.*?)```", text, re.DOTALL)
    shapes = Shapes(json.loads(named))
    assert len(cases) >= 30
    for command, shape in cases:
        assert run([*shlex.split(command), "--json"]) == 0, command
        document = json.loads(capsys.readouterr().out)
        assert shapes.fits(json.loads(shape), document["data"]), command


def test_the_page_of_commands_says_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import commands_page

    written = commands_page.PAGE.read_text("utf-8")
    assert written == commands_page.page(), "run `python tools/commands_page.py`"


def test_every_hook_has_its_heading_and_the_example_axis_works() -> None:
    text = (ROOT / "plugins" / "README.md").read_text("utf-8")
    for name in vars(hookspecs):
        if name.startswith("prefreg_"):
            assert f"### {name}(" in text
    example, _, base, test = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = type("module", (), {})()
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    module.prefreg_register_axes = namespace["prefreg_register_axes"]
    assert [axis.name for axis in read_plugin(module, "formality")] == ["formality"]
    exec(base, namespace)
    module.prefreg_register_bases = namespace["prefreg_register_bases"]
    (offered,) = read_bases(module, "tiny", "plugin tiny")
    assert str(offered.problem()).endswith("`pip install tiny-chat-model`")
    exec(test, namespace)
    namespace["test_the_axis_conforms"]()


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", document.read_text("utf-8"))
        for target, anchor in links:
            if target.startswith("http"):
                continue
            page = document.parent / target if target else document
            assert page.exists(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.MULTILINE)
                assert anchor in map(slug, headings), f"{document.name}: {target}#{anchor}"


def test_every_page_is_linked() -> None:
    linked = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)", document.read_text("utf-8"))
    }
    pages = [page for page in DOCUMENTS if page != ROOT / "README.md"]
    assert [page for page in pages if not {page, page.parent} & linked] == []


def test_every_path_that_a_document_names_exists() -> None:
    tops = "|".join(re.escape(each.name) for each in ROOT.iterdir() if each.is_dir())
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        # A path from the root, wherever it stands; and a script by its name, beside the page.
        for path in re.findall(rf"(?<![\w./-])(?:{tops})/[\w./-]+", text):
            if re.search(r"[A-Z]{2}", path.replace("README.md", "")):  # as in tests/ROOM
                continue
            places = (ROOT / path.rstrip("."), document.parent / path.rstrip("."))
            assert any(place.exists() for place in places), f"{document.name}: {path}"
        for name in re.findall(r"`(\w+\.py)`", text):
            assert any(document.parent.rglob(name)), f"{document.name}: {name}"


def rooms_named(document: Path, row: str) -> list[str]:
    """Return the names that rows which begin alike begin with, in their order."""
    rows = re.findall(rf"^{row}(`.*?`) \|", document.read_text("utf-8"), re.MULTILINE)
    return list(dict.fromkeys(re.findall(r"`(\w+)`", " ".join(rows))))


def test_the_maps_show_every_room_top_first() -> None:
    core = ROOT / "core" / "prefreg"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    order = re.findall(r"prefreg\.(\w+)", " ".join(layers))
    rooms = {each.parent.name for each in core.glob("*/__init__.py")}
    for document, row in ((ROOT / "README.md", r"\| · "), (ROOT / "docs/architecture.md", r"\| ")):
        named = [name for name in rooms_named(document, row) if name in rooms]
        assert named == [name for name in order if name in rooms], document.name


def test_the_page_on_python_has_every_request_and_methods_that_exist() -> None:
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| ", text, re.MULTILINE)
    named = {name for row, _ in rows for name in re.findall(r"`(\w+)`", row)}
    asked = {name for name in prefreg.__all__ if name.endswith("Request")} - {"SourceRequest"}
    assert named == asked | {"Calibrating", "Comparing", "Reach", "Sampling"}
    for _, methods in rows:
        for method in re.findall(r"`(\w+)", methods):
            assert callable(getattr(prefreg.Registry, method)), method


def test_every_field_of_a_request_is_described() -> None:
    for name in prefreg.__all__:
        kind = getattr(prefreg, name)
        if name.endswith("Request") and name != "SourceRequest":
            assert describe_fields(kind).keys() == {field.name for field in fields(kind)}, name


def test_public_names_are_sorted_and_exist() -> None:
    assert list(prefreg.__all__) == sorted(prefreg.__all__)
    for name in prefreg.__all__:
        assert getattr(prefreg, name) is not None
