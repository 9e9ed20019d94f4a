"""How vectors lie to each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.evaluating import make_request, measuring_options
from prefreg.cli.evaluating import show as show_estimate
from prefreg.cli.options import DIAL, PLOT, Common, command, table
from prefreg.cli.progress import stage_progress
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.evaluation.geometry.interference import Sti
    from prefreg.flows.geometry.behaviour import Behaviour
    from prefreg.flows.geometry.functional import Functional
    from prefreg.flows.geometry.interference import Interference
    from prefreg.flows.geometry.leakage import Leakage, Of

_FEW = 6


@command("interference")
@click.argument("terms", type=DIAL, nargs=-1, metavar="[AXIS[@V][:ETA]...]")
@click.option(
    "--rank", type=click.IntRange(1), default=8, show_default=True, help="Directions per weight."
)
@click.option(
    "--draws",
    type=click.IntRange(20),
    default=200,
    show_default=True,
    help="Draws of random subspaces, which say what is chance.",
)
@click.option(
    "--functional",
    is_flag=True,
    help="Compare too what vectors do to predictions, and predict the KL at ETA.",
)
@click.option(
    "--leakage",
    type=click.Choice(["margin", "metric"]),
    help="Measure too which dial moves which axis: by held-out margins, or by its own metric.",
)
@PLOT
@measuring_options
def interference(
    common: Common,
    terms: tuple[Term, ...],
    rank: int,
    draws: int,
    functional: bool,
    leakage: "Of | None",
    plot: Path | None,
    **options: Any,
) -> None:
    """Compare vectors in the weights: angles, sign conflicts, shared subspaces.

    Without an AXIS, the newest version of every axis on the base. Only --functional and --leakage
    load a model; the options of prompts and data are theirs.
    """
    from prefreg.evaluation.geometry.interference import Comparing
    from prefreg.flows.geometry.interference import InterferenceRequest, interference_view

    request = make_request(**options)
    wanted = InterferenceRequest(
        terms, request.base, Comparing(rank, draws, request.seed), request.at
    )
    registry = common.open_registry()
    with stage_progress(common) as progress:
        found = registry.interference(wanted, progress=progress)
        behaviour = None
        if functional or leakage:
            behaviour = registry.behaviour(
                terms, request, functional=functional, leakage=leakage, progress=progress
            )
    if plot is not None:
        from prefreg.flows.geometry.interference import draw_interference

        draw_interference(found, behaviour, plot)
        common.note(f"Drawn in {plot}.")
    data, text = interference_view(found), _describe(found)
    if behaviour is not None:
        from prefreg.flows.geometry.behaviour import behaviour_view

        data |= behaviour_view(behaviour)
        text += "\n\n" + _describe_behaviour(behaviour)
    common.emit("interference", data, text, asked=True)


def _describe_behaviour(found: "Behaviour") -> str:
    parts = []
    if found.functional is not None:
        parts.append(_describe_functional(found, found.functional))
    if found.leakage is not None:
        parts.append(_describe_leakage(found.leakage))
    return "\n\n".join(parts)


def _describe_functional(found: "Behaviour", functional: "Functional") -> str:
    names = [str(term.record) for term in found.terms]
    cosines = functional.geometry.cosines
    rows = [
        (
            name,
            show_estimate(functional.lengths[place]),
            *("-" if to == place else show(cosines[place, to]) for to in range(len(names))),
        )
        for place, name in enumerate(names)
    ]
    said = (
        "within 1.5 times, so what is predicted can be trusted at these coefficients."
        if functional.trusted
        else "not within 1.5 times, so these coefficients are too large for predictions."
    )
    return "\n".join(
        [
            table(("IN PREDICTIONS", "KL AT η = 1", *names), rows),
            "",
            f"{found.formula}: predicted KL {show_estimate(functional.predicted)} nats an answer,",
            f"measured {show_estimate(functional.measured)}: {said}",
        ]
    )


def _describe_leakage(leakage: "Leakage") -> str:
    rows = [
        (axis, *(show_estimate(entry, signed=True) for entry in row))
        for axis, row in zip(leakage.axes, leakage.entries, strict=True)
    ]
    lines = [
        table((f"{leakage.of.upper()} OF", *leakage.dials), rows),
        "",
        "Base standard deviations per unit of η, near the base, with 95 % intervals for this φ.",
    ]
    if leakage.condition is not None:
        lines.append(f"Condition number {leakage.condition:.2f}.")
    lines += [f"{axis} was not measured: {why}." for axis, why in leakage.missing.items()]
    return "\n".join(lines)


def _describe(found: "Interference") -> str:
    names = [str(term.record) for term in found.terms]
    rows = [
        (
            f"{names[pair.first]} · {names[pair.second]}",
            show(pair.cosine),
            show(pair.conflicts),
            show(pair.conflicting_mass),
            f"{show(pair.overlap)} ({show(pair.expected_overlap)})",
            "-" if pair.sti is None else f"{pair.sti.value:.3g} ({pair.sti.null:.3g})",
            "-" if pair.sti is None else f"{pair.sti.p:.3f}",
        )
        for pair in found.geometry.pairs
    ]
    headers = ("VECTORS", "COSINE", "CONFLICTS", "BY MASS", "OVERLAP", "STI", "P")
    return "\n".join(
        [
            table(headers, rows),
            "",
            table(*_layers(found)),
            "",
            _describe_sti(found.geometry.sti, found),
            "In brackets, what random subspaces of the same shapes and spectra share. Conflicts: "
            "of the weights\nthat both change, the share moved in opposite directions; by chance "
            ".5.",
        ]
    )


def _layers(found: "Interference") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Write one row a layer, with the cosines where there are few; --json has them all."""
    pairs = found.geometry.pairs if len(found.geometry.pairs) <= _FEW else ()
    names = [term.record.axis for term in found.terms]
    columns = [f"{names[pair.first]}·{names[pair.second]}" for pair in pairs]
    rows = [
        (
            each.layer,
            "-" if each.sti is None else f"{each.sti.ratio:.2f}",
            *(show(each.cosines[pair.first, pair.second]) for pair in pairs),
        )
        for each in found.geometry.layers
    ]
    return ("LAYER", "STI × CHANCE", *columns), rows


def _describe_sti(sti: "Sti | None", found: "Interference") -> str:
    if sti is None:
        return "No two of the vectors share a matrix, so there is no interference of subspaces."
    return (
        f"Singular task interference of all {len(found.terms)}: {sti.value:.3g}, {sti.ratio:.2f} "
        f"times that of random\nsubspaces, {sti.null:.3g} [{sti.null_low:.3g}, "
        f"{sti.null_high:.3g}] (p {sti.p:.3f})."
    )


def show(value: float | None) -> str:
    """Write a figure to three digits, or a dash where it is not defined."""
    return "-" if value is None or value != value else f"{value:.3f}"


COMMANDS = (interference,)
