import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import prefreg
from prefreg import Axis, AxisError, PreferencePair, hookimpl
from prefreg.plugins import AxisCatalog, Plugin, read_plugin

OURS = [
    "directness",
    "harmless",
    "helpful",
    "honesty",
    "humanlike",
    "politeness",
    "psychocounsel",
    "verbosity",
]

GOOD = """
import prefreg
from prefreg import Axis, PreferencePair

@prefreg.hookimpl
def prefreg_register_axes():
    return [Axis(name={name!r}, summary="A test.", aliases={aliases!r},
                 sources={{"rows": lambda request: []}}, label=PreferencePair.from_row)]
"""


def good(name: str, *aliases: str) -> str:
    return GOOD.format(name=name, aliases=aliases)


def install(site: Path, distribution: str, code: str, *, point: str | None = None) -> None:
    """Write a distribution as an installer would, with one plugin."""
    module = distribution.replace("-", "_")
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[prefreg]\n{point or module} = {module}\n")


def list_axes(site: Path, **environment: str) -> tuple[dict[str, Any], str]:
    """Run `prefreg axes --json` where the plugins of `site` are installed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFREG_")}
    result = subprocess.run(
        [sys.executable, "-m", "prefreg", "axes", "--json"],
        cwd=site,
        env=kept | {"PYTHONPATH": str(site)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["data"], result.stderr


def names(data: dict[str, Any]) -> list[str]:
    return [axis["name"] for axis in data["axes"]]


def reasons(data: dict[str, Any]) -> dict[str, str]:
    return {plugin["distribution"]: plugin["reason"] for plugin in data["broken"]}


def test_a_third_party_axis_stands_beside_ours(tmp_path: Path) -> None:
    install(tmp_path, "prefreg-kindness", good("kindness", "kind"))
    data, _ = list_axes(tmp_path)
    assert names(data) == sorted([*OURS, "kindness"])
    (found,) = (axis for axis in data["axes"] if axis["name"] == "kindness")
    assert found["distribution"] == "prefreg-kindness"
    assert found["distribution_version"] == "2.5"
    assert found["aliases"] == ["kind"]
    assert found["sources"] == ["rows"]
    assert found["versions"] == 0
    assert data["broken"] == []


BROKEN = [
    ("raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
    ("import module_that_nobody_has", "No module named 'module_that_nobody_has'"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    ("def broken(:", "SyntaxError"),
    (good("kindness").replace("register_axes", "register_axis"), "prefreg_register_axis"),
    ("answer = 42", "it implements no hook"),
    (good("Kindness"), "'Kindness' is no axis name"),
    (good("kindness", "kindness"), "claims the name 'kindness'"),
    (good("helpful"), "claims the name 'helpful', which prefreg (helpful) has"),
    (good("kindness", "verbose"), "claims the name 'verbose', which prefreg (verbosity) has"),
    (good("kindness").replace("return [", "return [7, "), "returned 7, which is no Axis"),
    (good("kindness").replace("return [", "return 7; ["), "TypeError"),
    (good("kindness").replace("return [", "raise ValueError('a\\nb'); ["), "ValueError: a"),
]


def test_broken_plugins_are_told_with_the_reason_and_harm_no_other(tmp_path: Path) -> None:
    for number, (code, _) in enumerate(BROKEN):
        install(tmp_path, f"broken-{number:02}", code)
    install(tmp_path, "works", good("kindness"))
    data, _ = list_axes(tmp_path)
    assert names(data) == sorted([*OURS, "kindness"])
    found = reasons(data)
    assert list(found) == [f"broken-{number:02}" for number in range(len(BROKEN))]
    for number, (_, reason) in enumerate(BROKEN):
        assert reason in found[f"broken-{number:02}"]
        assert "\n" not in found[f"broken-{number:02}"]


def test_what_a_plugin_prints_does_not_reach_stdout(tmp_path: Path) -> None:
    install(tmp_path, "prefreg-chatty", "print('Hello from chatty')\n" + good("kindness"))
    data, errors = list_axes(tmp_path)
    assert "kindness" in names(data)
    assert "Hello from chatty" in errors


def test_of_two_plugins_with_one_name_the_first_by_distribution_has_it(tmp_path: Path) -> None:
    install(tmp_path, "second", good("kindness"))
    install(tmp_path, "first", good("kindness"))
    data, _ = list_axes(tmp_path)
    (found,) = (axis for axis in data["axes"] if axis["name"] == "kindness")
    assert found["distribution"] == "first"
    assert reasons(data) == {"second": "claims the name 'kindness', which first (first) has"}


def test_an_empty_list_of_distributions_loads_none(tmp_path: Path) -> None:
    install(tmp_path, "noisy", "print('loaded')\n" + good("kindness"))
    data, errors = list_axes(tmp_path, PREFREG_LOAD_PLUGINS="")
    assert data == {"axes": [], "broken": []}
    assert errors == ""


def test_only_the_named_distributions_are_loaded(tmp_path: Path) -> None:
    install(tmp_path, "wanted", good("kindness"))
    install(tmp_path, "unwanted", "raise RuntimeError")
    data, _ = list_axes(tmp_path, PREFREG_LOAD_PLUGINS="wanted, other")
    assert names(data) == ["kindness"]
    assert data["broken"] == []


def make_axis(name: str, *aliases: str) -> Axis:
    return Axis(
        name=name,
        summary="A test.",
        aliases=aliases,
        sources={"rows": lambda request: []},
        label=PreferencePair.from_row,
    )


def test_hook_prefreg_register_axes() -> None:
    module = types.ModuleType("fresh")
    axis = make_axis("kindness")
    module.prefreg_register_axes = hookimpl(lambda: [axis])
    assert read_plugin(module, "fresh") == (axis,)


def test_a_hook_without_the_marker_is_no_hook() -> None:
    module = types.ModuleType("fresh")
    module.prefreg_register_axes = lambda: [make_axis("kindness")]
    with pytest.raises(AxisError, match=r"mark prefreg_register_axes with @prefreg\.hookimpl"):
        read_plugin(module, "fresh")


def test_a_plugin_may_bring_no_axis() -> None:
    module = types.ModuleType("fresh")
    module.prefreg_register_axes = hookimpl(lambda: [])
    assert read_plugin(module, "fresh") == ()


def test_an_axis_is_found_by_name_and_alias() -> None:
    axis = make_axis("kindness", "kind")
    catalog = AxisCatalog([Plugin("p", "d", "1", (axis,))])
    assert catalog.find("kindness").axis is axis
    assert catalog.find("kind").plugin.distribution == "d"
    assert [found.axis.name for found in catalog.axes] == ["kindness"]


def test_an_unknown_axis_is_told_with_its_neighbour_and_the_broken_plugins() -> None:
    catalog = AxisCatalog(
        [
            Plugin("p", "d", "1", (make_axis("kindness"), make_axis("brevity"))),
            Plugin("bad", "d", "1", error="RuntimeError"),
        ]
    )
    with pytest.raises(prefreg.AxisError) as caught:
        catalog.find("kindnes")
    assert str(caught.value) == (
        "No axis 'kindnes' is installed. Installed: brevity, kindness. "
        "Did you mean 'kindness'? Broken plugins: bad (see prefreg axes)."
    )


def test_without_any_plugin_none_is_installed() -> None:
    with pytest.raises(prefreg.AxisError, match=r"Installed: none\.$"):
        AxisCatalog([]).find("helpful")
