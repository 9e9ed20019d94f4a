"""Choose η: the setting that serves a target best under constraints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import NAMES, PLOT, SCORING, Common, WholeRange, command, request_options
from prefreg.cli.printing import progress_bars
from prefreg.cli.tables import paragraph, table
from prefreg.terms import brief_eta

if TYPE_CHECKING:
    from prefreg.choosing.tune import Tuned

_THEN = ("compose", "preset", "chat", "serve")


@command("tune")
@request_options(
    "TuneRequest",
    target={"metavar": "NAME=max|min,…"},
    subject_to={"metavar": "NAME>=NUMBER,…"},
    axes={"type": NAMES, "multiple": False, "metavar": "NAMES"},
    budget={"type": WholeRange(1)},
    at_once={"type": WholeRange(1)},
    study={"metavar": "NAME"},
)
@click.option(
    "--then",
    type=click.Choice(_THEN),
    help="Go on with what is recommended, as the menu at the end offers on a terminal.",
)
@click.option("--preset-name", metavar="NAME", help="Of the preset that --then preset saves.")
@PLOT
@request_options("EvaluationRequest", leave=SCORING, data={"metavar": "[AXIS=]FILE"})
def tune(
    common: Common,
    plot: Path | None,
    then: str | None,
    preset_name: str | None,
    **options: Any,
) -> None:
    """Find the setting that serves a target best under constraints.

    As in --target helpful=max --subject-to 'harmless>=0.7,correct>=0.95,kl<=0.5'. A figure is an
    axis (its own metric), AXIS.margin, correct, malformed, kl in nats per answer, or another of
    `prefreg eval`. What is recommended was measured on fresh prompts and is likely (.9) to meet
    every constraint there. --study keeps what is measured, and goes on from it.
    """
    context = click.get_current_context()
    commands = _then_commands(context)
    if then is not None and then not in commands:
        raise click.UsageError(f"This installation has no command `prefreg {then}`.", context)
    if then == "preset" and preset_name is None:
        raise click.UsageError("--then preset needs --preset-name NAME.", context)
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.tune(progress=progress, tuning=options.pop("target"), **options)
    if plot is not None:
        from prefreg import api

        api.draw_front(found, plot)
        common.note(f"Drawn in {plot}.")
    common.emit("tune", found.to_json(), describe_tuned(found), asked=True)
    terms = list(map(str, found.terms))
    if then is None and terms and not (common.json or common.quiet) and _is_terminal():
        then, preset_name = _ask(commands)
    if then is not None and terms:
        before = ["save", preset_name or "tuned"] if then == "preset" else []
        with context.find_root().scope():
            commands[then].main([*before, *terms], standalone_mode=False, obj=common)


def _then_commands(context: click.Context) -> dict[str, click.Command]:
    """Return what can be gone on with, of what this installation has."""
    root = context.find_root().command
    assert isinstance(root, click.Group)
    return {name: root.commands[name] for name in _THEN if name in root.commands}


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _ask(commands: dict[str, click.Command]) -> tuple[str | None, str | None]:
    """Offer what can be done with the setting that was found."""
    choice = click.prompt(
        "Go on", type=click.Choice([*commands, "nothing"]), default="nothing", err=True
    )
    if choice == "nothing":
        return None, None
    name = click.prompt("Name of the preset", err=True) if choice == "preset" else None
    return choice, name


def describe_tuned(found: "Tuned") -> str:
    """Write what is recommended beside the base and the bounds, and how to compose it."""
    best, base = found.best, {each.name: each for each in found.base}
    goals = {goal.name: "max" if goal.sign > 0 else "min" for goal in found.goals}
    rows = [
        (
            each.name,
            str(base[each.name]),
            str(each),
            ", ".join(filter(None, (goals.get(each.name), found.bounds.get(each.name)))),
        )
        for each in best.figures
    ]
    setting = ", ".join(
        f"{axis} {brief_eta(eta)}" for axis, eta in zip(found.axes, best.trial.etas, strict=True)
    )
    fresh = sum(trial.fresh for trial in found.trials)
    said = (
        f"Of {len(found.trials)} settings measured, {fresh} on {found.fresh_prompts} prompts that "
        f"the search on {found.prompts} others never asked. There other prompts would meet every "
        f"constraint with probability {best.probability:.2f}. 95 % intervals, for this φ."
    )
    lines = [table(("FIGURE", "BASE", "RECOMMENDED", "ASKED"), rows), "", f"η: {setting}"]
    if found.subject_to:
        lines += ["", paragraph(said)]
    else:
        lines += ["", paragraph(said.partition(" There other")[0])]
    lines += [paragraph(f"Note: {warning}") for warning in found.warnings]
    return "\n".join([*lines, "", found.compose_line if found.terms else "The base alone is best."])


COMMANDS = [tune]
