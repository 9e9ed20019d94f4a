"""The axis that a command is about."""

from pathlib import Path

import pytest

from prefreg import AxisError, UsageError
from prefreg.axes.find import find_axis


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    path = tmp_path / "tone.yaml"
    path.write_text("name: tone\nsummary: s\naliases: [warm]\nsources:\n- file: rows.jsonl\n")
    return path


def test_an_installed_axis_is_found_by_name_and_alias() -> None:
    found = find_axis("polite")
    assert (found.installed.axis.name, found.declaration) == ("politeness", None)


@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_file_is_read(declared: Path, ending: str) -> None:
    found = find_axis(str(declared.rename(declared.with_suffix(ending))))
    assert found.declaration is not None
    plugin = found.installed.plugin
    assert (plugin.name, plugin.distribution) == (f"tone{ending}", "YAML file")
    assert plugin.version == found.declaration.sha256[:12]
    assert found.installed.axis.owner == f"tone{ending}"


@pytest.mark.parametrize(
    ("old", "taken"), [("tone", "helpful"), ("warm", "verbose"), ("tone", "safe")]
)
def test_a_name_that_an_installed_axis_has_is_refused(declared: Path, old: str, taken: str) -> None:
    declared.write_text(declared.read_text().replace(old, taken))
    with pytest.raises(
        AxisError, match=rf"tone.yaml: the name '{taken}' is taken by the installed"
    ):
        find_axis(str(declared))


@pytest.mark.parametrize("name", ["Not An Axis", "tone.json", "./tone", ""])
def test_what_is_neither_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match="is no axis name"):
        find_axis(name)
