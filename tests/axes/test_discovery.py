"""Keeping plugins from being imported."""

import json
from pathlib import Path

import pytest

from packages import good, install, prefreg
from prefreg import AxisError, OutputError
from prefreg.axes.discovery import disable, enable, read_disabled
from prefreg.axes.plugins import load_axes

MARKER = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
"""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a list of disabled plugins of the test's own."""
    monkeypatch.setenv("PREFREG_CONFIG", str(tmp_path / "settings"))
    monkeypatch.delenv("PREFREG_LOAD_PLUGINS", raising=False)
    return tmp_path / "settings" / "disabled-plugins.txt"


def test_the_command_disables_without_importing_and_enables_again(tmp_path: Path) -> None:
    install(
        tmp_path,
        "prefreg-kindness",
        MARKER + good("kindness"),
        entry_points="kind = prefreg_kindness",
    )
    marker = tmp_path / "imported"
    code, out, err = prefreg("axes", "--disable", "kind", "--json", sites=[tmp_path])
    assert code == 0, err
    assert json.loads(out)["data"] == {"plugin": "prefreg-kindness:kind", "state": "disabled"}
    _, out, _ = prefreg("axes", sites=[tmp_path])
    assert out.splitlines()[-1] == "disabled: kind from prefreg-kindness 2.5"
    code, out, err = prefreg("check-axis", "kind", sites=[tmp_path])
    assert (code, out) == (1, "")
    assert "plugin kind of prefreg-kindness 2.5 is disabled" in err
    assert "`prefreg axes --enable kind`" in err
    assert not marker.exists()
    assert prefreg("axes", "--enable", "kind", "-q", sites=[tmp_path]) == (0, "", "")
    _, out, _ = prefreg("axes", sites=[tmp_path])
    assert "kindness" in out
    assert marker.exists()


def test_a_whole_distribution_is_disabled_by_any_spelling_of_its_name(
    site: Path, settings: Path
) -> None:
    points = "one = prefreg_both\ntwo = prefreg_both"
    install(site, "prefreg-both", "raise RuntimeError", entry_points=points)
    assert disable("Prefreg_Both") == "prefreg-both"
    assert settings.read_text() == "prefreg-both\n"
    assert [plugin.name for plugin in load_axes().disabled] == ["one", "two"]
    with pytest.raises(AxisError, match="run `prefreg axes --enable prefreg-both`"):
        enable("one")
    assert enable("prefreg-both") == "prefreg-both"
    assert [plugin.name for plugin in load_axes().broken] == ["one", "two"]


def test_disabling_twice_and_enabling_what_is_not_disabled_change_nothing(settings: Path) -> None:
    assert disable("helpful") == disable("prefreg:helpful") == "prefreg:helpful"
    assert settings.read_text() == "prefreg:helpful\n"
    assert enable("helpful") == enable("helpful") == "prefreg:helpful"
    assert settings.read_text() == ""


def test_a_name_of_two_plugins_needs_the_distribution(site: Path) -> None:
    for distribution in ("first", "second"):
        install(site, distribution, "", entry_points=f"same = {distribution}")
    with pytest.raises(AxisError, match="several plugins: say first:same or second:same"):
        disable("same")
    assert disable("second:same") == "second:same"
    assert enable("same") == "second:same"


def test_an_unknown_name_is_told_with_its_neighbour() -> None:
    with pytest.raises(AxisError, match=r"distribution 'helpfull' is .* Did you mean 'helpful'\?"):
        disable("helpfull")
    with pytest.raises(AxisError, match="No plugin or distribution 'nobody' is installed"):
        enable("nobody")


def test_what_is_no_longer_installed_can_be_taken_off_the_list(settings: Path) -> None:
    settings.parent.mkdir()
    settings.write_text("gone:plugin\n")
    assert enable("plugin") == "gone:plugin"
    assert read_disabled() == frozenset()


def test_a_list_that_cannot_be_written_or_read_is_named(settings: Path) -> None:
    settings.parent.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="set PREFREG_CONFIG to a folder that can be"):
        disable("helpful")
    settings.parent.unlink()
    settings.mkdir(parents=True)
    with pytest.raises(AxisError, match=r"cannot be read .* correct or remove it"):
        load_axes()


def test_the_list_lies_below_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFREG_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    disable("helpful")
    assert (tmp_path / "xdg" / "prefreg" / "disabled-plugins.txt").is_file()
