"""Options that are the fields of a request."""

from typing import Any

import click
import pytest

from prefreg.cli.options import Common, command, request_options


def given(*arguments: str, kind: str = "AxisRequest", **changes: Any) -> dict[str, Any]:
    """Return what a command with the options of a request is handed."""
    found: dict[str, Any] = {}

    @command("try")
    @request_options(kind, leave="name", **changes)
    def attempt(common: Common, **options: Any) -> None:
        found.update(options)

    attempt.main([*arguments], standalone_mode=False, obj=Common())
    return found


def test_only_what_is_given_is_handed_over() -> None:
    assert given() == {}
    assert given("--seed", "0") == {"seed": 0}


def test_a_field_makes_the_option_of_its_type() -> None:
    found = given("--no-watch", "--tag", "a", "--tag", "b", "--rslora", "--too-long", "drop")
    assert found == {"watch": False, "tags": ("a", "b"), "rslora": True, "too_long": "drop"}
    assert given("--lora-targets", "q_proj, v_proj") == {"lora_targets": ("q_proj", "v_proj")}


@pytest.mark.parametrize(
    "arguments", [("--limit", "0"), ("--too-long", "never"), ("--name", "x"), ("--seed", "one")]
)
def test_what_does_not_fit_the_field_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        given(*arguments)


def test_a_command_may_change_an_option() -> None:
    changes = {"limit": {"type": float, "names": ["--furthest"]}}
    assert given("--furthest", ".5", kind="Reach", **changes) == {"limit": 0.5}


def test_help_shows_what_is_written_beneath_the_field_and_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given("--help", kind="Reach")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--step NUMBER Steps outwards. [default: 0.5]" in shown
