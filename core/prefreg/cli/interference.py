"""How vectors lie to each other."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import AT, DIAL, PLOT, Common, command, table
from prefreg.cli.progress import stage_progress
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.evaluation.geometry.interference import Sti
    from prefreg.flows.geometry.interference import Interference

_FEW = 6


@command("interference")
@click.argument("terms", type=DIAL, nargs=-1, metavar="[AXIS[@V][:ETA]...]")
@click.option("--base", help="Base model.  [default: the one base that has every vector]")
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
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of these draws.")
@PLOT
@AT
def interference(
    common: Common,
    terms: tuple[Term, ...],
    base: str | None,
    plot: Path | None,
    at: datetime | None,
    **comparing: Any,
) -> None:
    """Compare vectors in the weights: angles, sign conflicts, shared subspaces.

    Without an AXIS, the newest version of every axis on the base. No model is loaded.
    """
    from prefreg.evaluation.geometry.interference import Comparing
    from prefreg.flows.geometry.interference import InterferenceRequest, interference_view

    request = InterferenceRequest(terms, base, Comparing(**comparing), at)
    with stage_progress(common) as progress:
        found = common.open_registry().interference(request, progress=progress)
    if plot is not None:
        from prefreg.flows.geometry.interference import draw_interference

        draw_interference(found, plot)
        common.note(f"Drawn in {plot}.")
    common.emit("interference", interference_view(found), _describe(found), asked=True)


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
