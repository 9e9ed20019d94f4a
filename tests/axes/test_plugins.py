"""Plugins and what they bring: axes, methods, and what is told of those that fail."""

import json
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from packages import good, install, prefreg
from prefreg import Axis, AxisError, PreferencePair, UsageError, hookimpl
from prefreg.axes.methods import Method, MethodInput, MethodOption, MethodTerm
from prefreg.axes.plugins import (
    AxisCatalog,
    Plugin,
    find_axis,
    load_methods,
    read_methods,
    read_plugin,
)
from prefreg.composition.methods import find_method

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


def list_axes(*sites: Path, **environment: str) -> tuple[dict[str, Any], str]:
    """Run `prefreg axes --json` where the plugins of these sites are installed."""
    code, out, err = prefreg("axes", "--json", sites=list(sites), **environment)
    assert code == 0, err
    return json.loads(out)["data"], err


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


ENDLESS = good("kindness").replace("return [", "while True: yield ").replace("row)]", "row)")
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
    (good("kindness").replace("return [", "return 7; ["), "returned 7, not a list of axes"),
    (good("kindness").replace("return [", "return None; ["), "returned None, not a list of axes"),
    (good("kindness").replace("return [", "return ").replace("row)]", "row)"), "not a list"),
    (good("kindness").replace("return [", "yield 7; ["), "returned 7, which is no Axis"),
    (good("kindness").replace("return [", "raise SystemExit(0); ["), "SystemExit: 0"),
    (good("kindness").replace("aliases=()", "aliases='kind'"), "'kind', no tuple"),
    (good("kindness").replace('"A test."', "'a\\nb'"), "The summary of axis 'kindness'"),
    (good("kindness").replace("label=P", "label=7 or P"), "The label rule of axis 'kindness'"),
    (good("kindness").replace('"rows": load', '"rows": 7'), "The source 'rows'"),
    (good("kindness").replace("return [", "raise ValueError('a\\nb'); ["), "ValueError: a"),
    ("import builtins; builtins.sorted = None; raise ValueError('bare')", "ValueError: bare"),
    ("import json; json.dumps = json.loads = None; raise ValueError('dumb')", "ValueError: dumb"),
    ("import sys; sys.setrecursionlimit(90); raise ValueError('flat')", "ValueError: flat"),
    (
        good("kindness").replace("return [", "while True: yield ").replace("row)]", "row)"),
        "than 10,",
    ),
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


CHATTY = """
import os, sys, warnings
print("by print")
os.write(1, b"by descriptor\\n")
os.system("echo by a child")
print("by the original", file=sys.__stdout__)
warnings.warn("never seen")
"""


def test_what_a_plugin_prints_does_not_reach_stdout_and_its_warnings_nobody(
    tmp_path: Path,
) -> None:
    hook = good("kindness").replace("return [", "print('by the hook'); return [")
    install(tmp_path, "prefreg-chatty", CHATTY + hook)
    data, errors = list_axes(tmp_path, PYTHONWARNINGS="error")
    assert "kindness" in names(data)
    for way in ("print", "descriptor", "a child", "the original", "the hook"):
        assert f"by {way}" in errors
    assert "never seen" not in errors


def test_an_interruption_is_the_users(tmp_path: Path) -> None:
    install(tmp_path, "slow", "raise KeyboardInterrupt")
    assert prefreg("axes", sites=[tmp_path])[0] == 130


DECLARED = {
    "nothing = ": "its entry point 'nothing' names nothing: write MODULE or MODULE:OBJECT",
    "lost = lost_module": "names the module 'lost_module', and there is no 'lost_module'",
    "deep = lost_module.inner": "'lost_module.inner', and there is no 'lost_module'",
    "bare = {module}:axes": "names {module}:axes, which has no 'axes'",
    "text": "its entry_points.txt is damaged",
}


def test_entry_points_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    for number, declared in enumerate(DECLARED):
        declared = declared.format(module=f"bad_{number}")
        install(tmp_path, f"bad-{number}", "answer = 42", entry_points=declared)
    install(tmp_path, "works", good("kindness"))
    data, _ = list_axes(tmp_path)
    assert "kindness" in names(data)
    found = reasons(data)
    assert len(found) == len(DECLARED)
    for number, reason in enumerate(DECLARED.values()):
        assert reason.format(module=f"bad_{number}") in found[f"bad-{number}"]


def test_of_two_versions_of_a_package_the_one_that_python_imports_is_used(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    install(first, "prefreg-kindness", good("kindness"), version="1.0")
    install(second, "prefreg-kindness", good("kindness", "kind"), version="2.0")
    data, _ = list_axes(first, second)
    (found,) = (axis for axis in data["axes"] if axis["name"] == "kindness")
    assert (found["distribution_version"], found["aliases"]) == ("1.0", [])
    (broken,) = data["broken"]
    assert broken["distribution_version"] == "2.0"
    for told in ("two versions", f"1.0 in {first} is used", f"2.0 in {second} is not", "uninstall"):
        assert told in broken["reason"]


def test_one_version_that_is_found_twice_is_one(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        install(tmp_path / folder, "prefreg-kindness", good("kindness"))
    data, _ = list_axes(tmp_path / "first", tmp_path / "second")
    assert names(data).count("kindness") == 1
    assert data["broken"] == []


def test_plugins_of_one_name_live_side_by_side_unless_one_package_has_both(tmp_path: Path) -> None:
    install(tmp_path, "one", good("kindness"), entry_points="same = one")
    install(tmp_path, "two", good("brevity"), entry_points="same = two\nsame = one")
    data, _ = list_axes(tmp_path)
    assert names(data) == sorted([*OURS, "kindness", "brevity"])
    assert reasons(data) == {"two": "two has two entry points of this name; the second is not used"}


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
    assert data == {"axes": [], "broken": [], "disabled": []}
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
    with pytest.raises(AxisError) as caught:
        catalog.find("kindnes")
    for told in ("'kindnes'", "brevity, kindness", "Did you mean 'kindness'?", "bad (see prefreg"):
        assert told in str(caught.value)


def test_without_any_plugin_none_is_installed() -> None:
    with pytest.raises(AxisError, match=r"Installed: none\.$"):
        AxisCatalog([]).find("helpful")


def test_a_disabled_or_broken_plugin_of_that_name_is_told() -> None:
    catalog = AxisCatalog(
        [
            Plugin("kindness", "prefreg-kindness", "1", disabled=True),
            Plugin("brevity", "d", "2", error="RuntimeError: no"),
        ]
    )
    with pytest.raises(AxisError, match="the plugin kindness of prefreg-kindness 1 is disabled"):
        catalog.find("kindness")
    with pytest.raises(AxisError, match="plugin brevity of d 2 is broken: RuntimeError: no"):
        catalog.find("brevity")


README = Path(__file__).parent.parent.parent / "plugins" / "README.md"


def plugin(methods: object) -> object:
    module = type("module", (), {})()
    module.prefreg_register_methods = hookimpl(lambda: methods)
    return module


def documented() -> object:
    text = README.read_text("utf-8").partition("### prefreg_register_methods")[2]
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    namespace: dict[str, object] = {}
    exec(example[1], namespace)
    module = type("module", (), {})()
    module.prefreg_register_methods = namespace["prefreg_register_methods"]
    return module


def test_hook_prefreg_register_methods() -> None:
    (method,) = read_methods(documented(), "clipped")
    phi = torch.tensor([1.0, -0.005])
    terms = (MethodTerm("helpful", "hash", -2.0, lambda start, stop: phi[start:stop]),)
    options = method.read_options({})
    combine = method.prepare(MethodInput("w", (2,), terms, options))
    (added,) = combine(0, [phi])
    assert torch.equal(added, torch.tensor([0.01, -0.005]) * -2)
    assert method.describe(options) == "Σ ηᵢ·clip(φᵢ, 0.01)"


def test_a_plugin_may_bring_methods_only() -> None:
    assert read_plugin(documented(), "clipped") == ()


@pytest.mark.parametrize("answer", ["ties", 1, ["ties"], [None]])
def test_an_answer_that_is_no_method_is_refused(answer: object) -> None:
    with pytest.raises(AxisError, match="prefreg_register_methods returned"):
        read_methods(plugin(answer), "bad")


def test_a_name_that_no_option_can_take_is_refused() -> None:
    with pytest.raises(UsageError, match="'My Method' is no name for a method"):
        Method("My Method", "", "", "", prepare=lambda weight: lambda start, phis: [])


@pytest.mark.parametrize(
    ("formula", "options", "said"),
    [
        ("{nope}", {}, "has no option 'nope' to show"),
        ("", {"x": 1}, "'x' of mine is no MethodOption"),
        ("", {"x": MethodOption(None, "")}, "'x' of mine is no MethodOption"),  # type: ignore[arg-type]
    ],
)
def test_options_are_what_they_say(formula: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Method("mine", "", formula, "", prepare=lambda weight: lambda *_: [], options=options)


def test_an_unknown_method_lists_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_LOAD_PLUGINS", "")
    with pytest.raises(UsageError, match=r"no method 'tie'\. There are: .*Did you mean 'ties'\?"):
        find_method("tie")


def test_a_package_that_brings_methods_twice_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import prefreg\n"
        "@prefreg.hookimpl\n"
        "def prefreg_register_methods():\n"
        "    return [prefreg.Method('clipped', '', '', '', prepare=lambda weight: None)]\n"
    )
    for folder, version in (("first", "1.0"), ("second", "2.0")):
        install(tmp_path / folder, "prefreg-clipped", code, version=version)
    for folder in ("second", "first"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    monkeypatch.setenv("PREFREG_LOAD_PLUGINS", "prefreg-clipped")
    methods, broken = load_methods()
    assert list(methods) == ["clipped"]
    (problem,) = broken
    assert problem.startswith("prefreg_clipped (two versions of prefreg-clipped are installed: 1.0")


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
