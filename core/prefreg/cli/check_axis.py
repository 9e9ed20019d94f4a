"""Checking an axis: whether it keeps what prefreg relies on."""

import click

from prefreg.cli.options import Common, command
from prefreg.plugins import load_axes

GATE = 3


@command("check-axis")
@click.argument("name")
@click.option("--source", help="One of the axis' sources.  [default: pocket, else the first]")
@click.option(
    "--limit", type=click.IntRange(1), default=500, show_default=True, help="Rows to check."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the request.")
@click.option("--train/--no-train", default=True, help="Whether to try ten steps of training.")
def check_axis(
    common: Common, name: str, source: str | None, limit: int, seed: int, train: bool
) -> int:
    """Check what an axis must keep: rows, labels, switch, splits, tokens, ten training steps.

    Exit code 3 says that a check failed; the report is written all the same.
    """
    from prefreg.testing import check_axis

    axis = load_axes().find(name).axis
    report = check_axis(axis, source, limit, seed, train)
    common.emit("check-axis", report.as_dict(), str(report))
    return 0 if report.passed else GATE


COMMANDS = (check_axis,)
