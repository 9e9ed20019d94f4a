"""What the documents show is what the commands do."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import prefreg
from prefreg.axes import hookspecs
from prefreg.axes.plugins import read_plugin
from prefreg.cli.main import run

ROOT = Path(__file__).parent.parent
REGISTRY = ROOT / "registry.db"
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
    """Stand where a user of a fresh clone stands, with a copy of the shipped registry."""
    shutil.copy(REGISTRY, tmp_path / "registry.db")
    row = {"instruction": "What colour is the boat?", "output": "The boat is red."}
    (tmp_path / "instructions.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFREG_REGISTRY", raising=False)
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


def shape(value: object) -> object:
    """Reduce a document to its keys; lists to their first entry, long tables to one."""
    if isinstance(value, dict):
        if len(value) > 14 and all(isinstance(item, int | float) for item in value.values()):
            return "table"
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return None


def matches(shown: object, real: object) -> bool:
    """Whether a documented shape is the real one; a table is shown by one entry."""
    if real == "table":
        return isinstance(shown, dict) and len(shown) == 1
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(matches(shown[key], real[key]) for key in shown)
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(matches, shown, real))
    return shown == real


def test_every_json_document_has_the_shape_that_is_documented(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    cases = re.findall(r"<!-- (.*?) -->\n```json\n(.*?)```", text, re.DOTALL)
    assert len(cases) >= 14
    for command, document in cases:
        assert run([*shlex.split(command), "--json"]) == 0, command
        real = json.loads(capsys.readouterr().out)
        assert matches(shape(json.loads(document)), shape(real)), command


def test_every_command_is_documented() -> None:
    from prefreg.cli.main import prefreg as group

    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name in group.commands:
        assert re.search(rf"^## {name}\b", text, re.MULTILINE), name


def test_every_hook_has_its_heading_and_the_example_axis_works() -> None:
    text = (ROOT / "plugins" / "README.md").read_text("utf-8")
    for name in vars(hookspecs):
        if name.startswith("prefreg_"):
            assert f"### {name}(" in text
    example, _, test = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = type("module", (), {})()
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    module.prefreg_register_axes = namespace["prefreg_register_axes"]
    assert [axis.name for axis in read_plugin(module, "formality")] == ["formality"]
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


def test_public_names_are_sorted_and_exist() -> None:
    assert list(prefreg.__all__) == sorted(prefreg.__all__)
    for name in prefreg.__all__:
        assert getattr(prefreg, name) is not None
