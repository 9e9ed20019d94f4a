"""What Python shows of the package and its objects, and how it names what it refuses."""

from pathlib import Path

import click
import pytest

import prefreg
import prefreg.api
from prefreg import UsageError
from prefreg.cli.main import prefreg as commands
from prefreg.cli.options import RequestOption
from prefreg.wording import ARGUMENTS, as_arguments, as_options


@pytest.mark.parametrize("module", [prefreg, prefreg.api])
def test_what_is_listed_is_what_is_public(module) -> None:
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in dir(module))


def test_the_version_is_that_of_the_package() -> None:
    assert prefreg.__version__[0].isdigit()


def test_a_registry_says_where_it_lies_and_what_it_holds(trained: Path, tmp_path: Path) -> None:
    assert repr(prefreg.open(trained, starter=False)) == f"<Registry {trained}: 2 versions>"
    missing = prefreg.open(tmp_path / "none.db")
    assert repr(missing) == f"<Registry {tmp_path}/none.db: nothing to read yet>"
    (tmp_path / "text.db").write_text("no database")
    assert repr(prefreg.open(tmp_path / "text.db")).endswith("text.db: unreadable>")


def test_a_version_says_what_it_is_in_a_line(trained: Path) -> None:
    registry = prefreg.open(trained, starter=False)
    assert repr(registry.show("helpful")).startswith("<VersionRecord helpful@1: dense F32, ")
    assert repr(registry.summaries("helpful")[0]).endswith(", on pocket>")


def test_python_names_arguments() -> None:
    with pytest.raises(UsageError, match=r"^`lora_alpha=`, .* belong to `lora=` RANK"):
        prefreg.AxisRequest("kind", lora_alpha=2).lora_options()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Pass --keep-anyway to keep it.", "Pass `keep_anyway=` to keep it."),
        ("(--no-watch trains on)", "(`watch=False` trains on)"),
        ("leave --as adapter out, or --set", "leave `form=` adapter out, or `settings=`"),
        ("run `prefreg gc --quiet`, a--b, --", "run `prefreg gc --quiet`, a--b, --"),
    ],
)
def test_an_option_becomes_an_argument_and_again_an_option(text: str, named: str) -> None:
    assert as_arguments(text) == named
    assert as_options(named) == text


def test_every_option_with_another_name_than_its_argument_is_known() -> None:
    context = click.Context(commands)
    found = {
        option: argument
        for command in commands.commands.values()
        for each in command.get_params(context)
        if isinstance(each, RequestOption) and (argument := each.name)
        for option in [max(each.opts, key=len)[2:]]
        if option.replace("-", "_") != argument
    }
    assert found.items() <= ARGUMENTS.items()
