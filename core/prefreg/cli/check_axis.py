"""Checking an axis: whether it keeps what prefreg relies on."""

import click

from prefreg.cli.options import Common, command

GATE = 3


@command("check-axis")
@click.argument("name", metavar="NAME_OR_YAML")
@click.option("--source", help="One of the axis' sources.  [default: pocket, else the first]")
@click.option(
    "--limit", type=click.IntRange(1), default=500, show_default=True, help="Rows to check."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the request.")
@click.option("--train/--no-train", default=True, help="Whether to try ten steps of training.")
@click.option(
    "--accept-licence", is_flag=True, help="Use data whose licence forbids commercial use."
)
def check_axis(
    common: Common,
    name: str,
    source: str | None,
    limit: int,
    seed: int,
    train: bool,
    accept_licence: bool,
) -> int:
    """Check what an axis must keep: rows, labels, switch, splits, tokens, ten training steps.

    Exit code 3 says that a check failed; the report is written all the same.
    """
    from prefreg.data.licences import check_licence
    from prefreg.flows.find_axis import find_axis
    from prefreg.flows.rows import default_source
    from prefreg.testing import check_axis

    axis = find_axis(name).installed.axis
    read = default_source(axis, "pocket") if source is None else source
    if read in axis.sources and (shown := check_licence(axis, read, accepted=accept_licence)):
        common.note(shown)
    report = check_axis(axis, source, limit, seed, train)
    common.emit("check-axis", report.as_dict(), str(report), asked=True)
    return 0 if report.passed else GATE


COMMANDS = (check_axis,)
