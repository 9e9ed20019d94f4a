"""How far a dial may be turned, what one unit of it is worth, and which layers do its work."""

from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.evaluating import make_request, measuring_options, show
from prefreg.cli.options import DIAL, REFERENCE, Common, command, table
from prefreg.cli.progress import stage_progress
from prefreg.terms import Term, format_eta

if TYPE_CHECKING:
    from prefreg.evaluation.geometry.layers import Part
    from prefreg.evaluation.geometry.reach import Reading
    from prefreg.evaluation.geometry.scales import Scale
    from prefreg.flows.geometry.calibrate import Calibration
    from prefreg.flows.geometry.profile import LayerProfile
    from prefreg.flows.geometry.ranges import DialRange

Reference = tuple[str, str | None]
NO_STORE = click.option("--no-store", is_flag=True, help="Keep nothing with the version.")


@command("range")
@click.argument("version", type=REFERENCE, metavar="AXIS[@V]")
@click.option(
    "--limit", type=float, default=4.0, show_default=True, help="Look no further than this, ±."
)
@click.option("--step", type=float, default=0.5, show_default=True, help="Steps outwards.")
@NO_STORE
@measuring_options
def range_(
    common: Common,
    version: Reference,
    limit: float,
    step: float,
    no_store: bool,
    **options: Any,
) -> None:
    """Find how far a dial may be turned, and keep that with the version.

    The range is the largest interval around 0 in which the effect does not turn back, at most 2 %
    of the answers are malformed, and correct answers stay at 95 % of the base's or more. compose
    and generate warn beyond it.
    """
    from prefreg.flows.geometry.ranges import Reach, range_value

    term = Term(version[0], 1.0, version[1])
    registry = common.open_registry()
    with stage_progress(common) as progress:
        found = registry.find_range(
            term, Reach(limit, step), make_request(**options), store=not no_store, progress=progress
        )
    data = {
        "axis": found.record.axis,
        "version": found.record.number,
        **range_value(found),
        "protocol": found.protocol,
        "stored": not no_store,
    }
    common.emit("range", data, _describe_range(found), asked=True)


def _describe_range(found: "DialRange") -> str:
    readings = sorted((*found.below.readings, *found.above.readings), key=lambda each: each.eta)
    headers = (
        "η",
        "CHANGE OF " + found.figure.upper(),
        "MALFORMED",
        "CHANGE OF CORRECT",
        "IN RANGE",
    )
    rows = [_reading_row(found, reading) for reading in readings]
    lines = [table(headers, rows), "", f"The range of {found.record} is {found}."]
    for side, name in ((found.below, "Below"), (found.above, "Above")):
        lines.append(f"{name}: {side.reason or 'nothing was wrong as far as was looked'}.")
    if found.unchecked:
        lines.append(f"Capability was not checked: {found.unchecked}.")
    lines.append(f"({found.protocol})")
    return "\n".join(lines)


def _reading_row(found: "DialRange", reading: "Reading") -> tuple[str, ...]:
    inside = found.below.eta <= reading.eta <= found.above.eta
    return (
        format_eta(reading.eta),
        show(reading.effect, signed=True),
        f"{reading.malformed:.3f}",
        show(reading.capability, signed=True),
        "yes" if inside else "no",
    )


@command("calibrate")
@click.argument("versions", type=REFERENCE, nargs=-1, metavar="[AXIS[@V]...]")
@click.option(
    "--by",
    type=click.Choice(["effect", "kl"]),
    default="effect",
    show_default=True,
    help="The effect on the axis's own metric, or nats of KL per answer.",
)
@click.option(
    "--target",
    type=float,
    default=1.0,
    show_default=True,
    help="What one calibrated unit is worth.",
)
@click.option("--furthest", type=float, default=8.0, show_default=True, help="Look no further, ±.")
@NO_STORE
@measuring_options
def calibrate(
    common: Common,
    versions: tuple[Reference, ...],
    by: str,
    target: float,
    furthest: float,
    no_store: bool,
    **options: Any,
) -> None:
    """Find the scales at which η = 1 means the same effect on every axis, and keep them.

    An effect is a change of log-odds of a rate, of the logarithm of a count such as that of words,
    else of the metric in standard deviations of the base; + and − have scales of their own.
    `compose --calibrated` reads its coefficients in these units. Without an AXIS, the newest
    version of every axis on the base.
    """
    from prefreg.flows.geometry.calibrate import Calibrating, calibration_value

    terms = [Term(axis, 1.0, reference) for axis, reference in versions]
    calibrating = Calibrating("kl" if by == "kl" else "effect", target, furthest)
    registry = common.open_registry()
    with stage_progress(common) as progress:
        found = registry.calibrate(
            terms, calibrating, make_request(**options), store=not no_store, progress=progress
        )
    data = {
        "goal": calibrating.goal,
        "stored": not no_store,
        "calibrations": [
            {
                "axis": each.record.axis,
                "version": each.record.number,
                **calibration_value(each),
                "protocol": each.protocol,
            }
            for each in found
        ],
    }
    common.emit("calibrate", data, _describe_calibrations(found), asked=True)


def _describe_calibrations(found: "list[Calibration]") -> str:
    rows = [
        (
            str(each.record),
            str(each.unit),
            _describe_scale(each.positive),
            _describe_scale(each.negative),
            "-" if each.asymmetry is None else f"{each.asymmetry:.2f}",
        )
        for each in found
    ]
    headers = ("VERSION", "UNIT", "η OF +1", "η OF −1", "−/+")
    goal = found[0].calibrating.goal
    return "\n".join(
        [
            table(headers, rows),
            "",
            f"One calibrated unit is {goal}. In brackets, what was measured at that η, with its "
            "95 % interval.",
        ]
    )


def _describe_scale(scale: "Scale") -> str:
    if scale.eta is None:
        return f"not reached: {show(scale.effect, signed=True)} at {format_eta(scale.at)}"
    return f"{scale.eta:.3g} ({show(scale.effect, signed=True)})"


@command("profile")
@click.argument("term", type=DIAL, metavar="AXIS[@V][:ETA]")
@click.option(
    "--blocks",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Runs of layers, at most as many as there are layers.",
)
@measuring_options
def profile(common: Common, term: Term, blocks: int, **options: Any) -> None:
    """Show which layers of a vector do its work, and whether a subset does it for less KL.

    Every block of layers is composed alone at ETA (1 unless given): how far it moves the axis's
    held-out margin, and its KL from the base at the steps of the base's own answers.
    """
    from prefreg.flows.geometry.profile import profile_view

    registry = common.open_registry()
    with stage_progress(common) as progress:
        found = registry.profile(term, make_request(**options), blocks=blocks, progress=progress)
    common.emit("profile", profile_view(found), _describe_profile(found), asked=True)


def _describe_profile(found: "LayerProfile") -> str:
    profile = found.profile
    rows = [_part_row("alone", part) for part in profile.blocks]
    rows += [_part_row("cheapest together", part) for part in profile.growing]
    lines = [table(("", "LAYERS", "EFFECT", "KL", "KL / EFFECT²"), rows), ""]
    if profile.chosen == profile.whole:
        lines.append("No subset of these blocks has the whole effect for less KL.")
    else:
        chosen, whole = profile.chosen, profile.whole
        lines.append(
            f"At η {format_eta(chosen.eta)}, {_layers(chosen)} alone move the margin by "
            f"{chosen.effect:+.2f} for {chosen.kl:.3f} nats,\nthe whole vector at "
            f"{format_eta(whole.eta)} by {whole.effect:+.2f} for {whole.kl:.3f}. A recipe takes "
            "such a subset by its rules."
        )
    lines.append(
        f"(Effects in standard deviations of the base, over {found.pairs} held-out pairs; nats an "
        f"answer at the steps of {found.answers} answers of the base.)"
    )
    return "\n".join(lines)


def _part_row(kind: str, part: "Part") -> tuple[str, ...]:
    price = "-" if part.price == float("inf") else f"{part.price:.3f}"
    return (kind, _layers(part), f"{part.effect:+.3f}", f"{part.kl:.4f}", price)


def _layers(part: "Part") -> str:
    numbers = [int(name.split()[1]) for name in part.layers if name.startswith("layer ")]
    outside = [name for name in part.layers if not name.startswith("layer ")]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    spans = [f"{first}" if first == last else f"{first}-{last}" for first, last in runs]
    word = "layer" if len(numbers) == 1 else "layers"
    return ", ".join([*outside, *([f"{word} {', '.join(spans)}"] if spans else [])])


COMMANDS = (range_, calibrate, profile)
