import re
from pathlib import Path

import pytest
import torch

from packages import install
from prefreg.axes.hookspecs import hookimpl
from prefreg.axes.methods import Method, MethodInput, MethodTerm
from prefreg.axes.plugins import load_methods, read_methods, read_plugin
from prefreg.composition.methods import find_method
from prefreg.errors import AxisError, UsageError

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
