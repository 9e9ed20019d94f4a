"""Dials: how far they turn, what a unit is worth, which layers work, how they interfere."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import (
    DIAL,
    PLOT,
    REFERENCE,
    SCORING,
    TERM,
    Common,
    Reference,
    WholeRange,
    command,
    request_options,
)
from prefreg.cli.printing import describe_missing, progress_bars, show, show_figure
from prefreg.cli.tables import heading, paragraph, table
from prefreg.terms import Term, brief_eta

if TYPE_CHECKING:
    from prefreg.choosing.blame import Blame
    from prefreg.evaluation.calibration import Calibration, Scale
    from prefreg.evaluation.checkpoint_audit import CheckpointAudit
    from prefreg.evaluation.diagnosis import Diagnosis, Shares
    from prefreg.evaluation.dial_effects import DialEffects, Functional, Leakage
    from prefreg.evaluation.dial_range import DialRange, Reading
    from prefreg.evaluation.interference import Interference
    from prefreg.evaluation.layer_profile import LayerEffect, LayerProfile
    from prefreg.evaluation.weight_geometry import Sti

_no_store = click.option("--no-store", is_flag=True, help="Keep nothing with the version.")
_measured = request_options("EvaluationRequest", leave=SCORING, data={"metavar": "[AXIS=]FILE"})


@command("range")
@click.argument("version", type=REFERENCE, metavar="AXIS[@V]")
@request_options("Reach", limit={"type": float, "metavar": "ETA"})
@_no_store
@_measured
def range_(common: Common, version: Reference, no_store: bool, **options: Any) -> None:
    """Find how far a dial may be turned, and keep that with the version.

    The range is the largest interval around 0 in which the effect does not turn back, at most 2 %
    of the answers are malformed, and correct answers stay at 95 % of the base's or more. compose
    and generate warn beyond it.
    """
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.find_range(
            Term(version[0], 1.0, version[1]), store=not no_store, progress=progress, **options
        )
    data = {
        "axis": found.record.axis,
        "version": found.record.number,
        **found.to_json(),
        "protocol": found.protocol,
        "stored": not no_store,
    }
    common.emit("range", data, _describe_range(found), asked=True)


def _describe_range(found: "DialRange") -> str:
    readings = sorted((*found.below.readings, *found.above.readings), key=lambda each: each.eta)
    headers = (
        "η",
        "CHANGE OF " + heading(found.figure),
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
        brief_eta(reading.eta),
        show(reading.effect, signed=True),
        f"{reading.malformed:.3f}",
        show(reading.capability, signed=True),
        "yes" if inside else "no",
    )


@command("calibrate")
@click.argument("versions", type=REFERENCE, nargs=-1, metavar="[AXIS[@V]...]")
@request_options("Calibrating")
@_no_store
@_measured
def calibrate(
    common: Common, versions: tuple[Reference, ...], no_store: bool, **options: Any
) -> None:
    """Find the scales at which η = 1 means the same effect on every axis, and keep them.

    An effect is a change of log-odds of a rate, of the logarithm of a count such as that of words,
    else of the metric in standard deviations of the base; + and − have scales of their own.
    `compose --calibrated` reads its coefficients in these units. Without an AXIS, the newest
    version of every axis on the base.
    """
    dials = [Term(axis, 1.0, reference) for axis, reference in versions]
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.calibrate(dials, store=not no_store, progress=progress, **options)
    data = {
        "goal": found[0].calibrating.goal,
        "stored": not no_store,
        "calibrations": [
            {
                "axis": each.record.axis,
                "version": each.record.number,
                **each.to_json(),
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
            paragraph(
                f"One calibrated unit is {goal}. In brackets, what was measured at that η, with "
                "its 95 % interval."
            ),
        ]
    )


def _describe_scale(scale: "Scale") -> str:
    if scale.eta is None:
        return f"not reached: {show(scale.effect, signed=True)} at {brief_eta(scale.at)}"
    return f"{scale.eta:.3g} ({show(scale.effect, signed=True)})"


@command("profile")
@click.argument("term", type=DIAL, metavar="AXIS[@V][:ETA]")
@click.option(
    "--blocks",
    type=WholeRange(1),
    default=8,
    show_default=True,
    help="Runs of layers, at most as many as there are layers.",
)
@_measured
def profile(common: Common, term: Term, **options: Any) -> None:
    """Show which layers of a vector do its work, and whether a subset does it for less KL.

    Every block of layers is composed alone at ETA (1 unless given): how far it moves the axis's
    held-out margin, and its KL from the base at the steps of the base's own answers.
    """
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.profile(term, progress=progress, **options)
    common.emit("profile", found.to_json(), _describe_profile(found), asked=True)


def _describe_profile(found: "LayerProfile") -> str:
    profile = found.profile
    rows = [_part_row("alone", part) for part in profile.blocks]
    rows += [_part_row("cheapest together", part) for part in profile.growing]
    lines = [table(("", "LAYERS", "EFFECT", "KL", "KL / EFFECT²"), rows, keys=2), ""]
    if profile.chosen == profile.whole:
        lines.append("No subset of these blocks has the whole effect for less KL.")
    else:
        chosen, whole = profile.chosen, profile.whole
        said = (
            f"At η {brief_eta(chosen.eta)}, {_layers(chosen)} alone move the margin by "
            f"{chosen.effect:+.2f} for {chosen.kl:.3f} nats, the whole vector at "
            f"{brief_eta(whole.eta)} by {whole.effect:+.2f} for {whole.kl:.3f}. A recipe takes "
            "such a subset by its rules."
        )
        lines.append(paragraph(said))
    over = (
        f"(Effects in standard deviations of the base, over {found.pairs} held-out pairs; nats an "
        f"answer at the steps of {found.answers} answers of the base.)"
    )
    lines.append(paragraph(over))
    return "\n".join(lines)


def _part_row(kind: str, part: "LayerEffect") -> tuple[str, ...]:
    price = "-" if part.price == float("inf") else f"{part.price:.3f}"
    return (kind, _layers(part), f"{part.effect:+.3f}", f"{part.kl:.4f}", price)


def _layers(part: "LayerEffect") -> str:
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


@command("diagnose")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@click.option("--blame", is_flag=True, help="Leave each TERM out in turn: which one costs what.")
@_measured
def diagnose(common: Common, terms: tuple[Term, ...], blame: bool, **options: Any) -> None:
    """Measure a composition and each of its dials alone, and name what is wrong.

    Weak: an axis moves its held-out margin by less than .25 standard deviations of the base.
    Over-refusing: more than 10 % of the safe requests are refused. Incoherent: more than 2 % of the
    answers are malformed. Each with its cause and what to do. With --blame, what each TERM adds to
    every figure.
    """
    registry = common.open_registry()
    with progress_bars(common) as progress:
        if blame:
            blamed = registry.blame(terms, progress=progress, **options)
        else:
            found = registry.diagnose(terms, progress=progress, **options)
    if blame:
        common.emit("diagnose", blamed.to_json(), _describe_blame(blamed), asked=True)
    else:
        common.emit("diagnose", found.to_json(), _describe_diagnosis(found), asked=True)


def _describe_blame(found: "Blame") -> str:
    """Write what each term does to each figure, those that prompts can tell with a mark."""
    terms = list(dict.fromkeys(each.term for each in found.shares))
    figures = list(dict.fromkeys(each.figure for each in found.shares))
    by_key = {(each.term, each.figure): each for each in found.shares}

    def cell(term: str, figure: str) -> str:
        share = by_key.get((term, figure))
        if share is None:
            return "-"
        return show(share.change, signed=True) + (" *" if share.told else "")

    rows = [
        (figure, f"{by_key[terms[0], figure].whole:.3f}", *(cell(term, figure) for term in terms))
        for figure in figures
    ]
    said = (
        f"What each term adds to the whole, as the change when it joins the others, on "
        f"{found.prompts} prompts; * where p < .05 after Holm over the whole table."
    )
    lines = [found.formula, "", table(("FIGURE", "WHOLE", *terms), rows), "", paragraph(said)]
    return "\n".join([*lines, *describe_missing(found.missing)])


def _describe_diagnosis(found: "Diagnosis") -> str:
    lines = [found.formula, ""]
    if found.strengths:
        rows = [
            (
                each.dial,
                f"{each.cast:+.2f}",
                f"{each.alone:+.2f} at {brief_eta(each.eta)}",
                f"{each.further:+.2f} at {brief_eta(each.further_eta)}",
            )
            for each in found.strengths
        ]
        lines += [table(("MARGIN OF", "HERE", "ALONE", "ALONE, FURTHER"), rows), ""]
    for name, shares in (("SAFE REFUSED", found.refusals), ("MALFORMED", found.malformed)):
        if shares is not None:
            lines += [table((name, "SHARE"), _share_rows(shares)), ""]
    lines += describe_missing(found.unmeasured)
    for each in found.findings:
        lines.append(
            paragraph(f"{each.sign.upper()}, {each.subject}: {each.cause}. {each.evidence}")
        )
        lines.append(paragraph(f"→ {each.advice}", indent=2))
    if not found.findings:
        lines.append("Nothing is wrong with what was measured.")
    lines.append(f"(Margins in standard deviations of the base; {found.prompts} prompts.)")
    return "\n".join(lines)


def _share_rows(shares: "Shares") -> list[tuple[str, str]]:
    alone = [(f"{dial} alone", share) for dial, share in shares.alone.items()]
    rows = [("base", shares.base), ("composition", shares.cast), *alone]
    return [(name, f"{share:.3f}") for name, share in rows]


@command("audit")
@click.argument("versions", type=REFERENCE, nargs=-1, metavar="[AXIS[@V]...]")
@click.option(
    "--checkpoint",
    required=True,
    metavar="DIR",
    help="The fine-tuned model: a folder or hub id, or the folder of a PEFT adapter.",
)
@click.option(
    "--functional/--no-functional",
    default=True,
    help="Measure angles in predictions too, which loads the base.",
)
@_measured
def audit(common: Common, versions: tuple[Reference, ...], checkpoint: str, **options: Any) -> None:
    """Say how far a fine-tuned model went along each axis, by the difference from its base.

    The difference is written as a sum of vectors and a rest, by least squares over all of them:
    by the newest version of every axis on the base, or those named.
    """
    terms = [Term(axis, 1.0, reference) for axis, reference in versions]
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.audit(checkpoint, terms, progress=progress, **options)
    common.emit("audit", found.to_json(), _describe_checkpoint(found), asked=True)


def _describe_checkpoint(found: "CheckpointAudit") -> str:
    rows = [
        (
            str(each.record),
            show(each.eta, signed=True) + (" *" if each.told else ""),
            f"{each.share:.3%}",
            f"{each.cosine:+.4f}",
            f"± {each.chance:.4f}",
            show_figure(each.functional_cosine),
        )
        for each in found.axes
    ]
    headers = ("VECTOR", "η", "SHARE", "COSINE", "BY CHANCE", "IN PREDICTIONS")
    alike = "" if found.alike is None else f" (cosines of {found.alike:.2f})"
    said = (
        f"The change of {found.tensors} tensors, as a sum of these vectors and a rest. In "
        "brackets, 95 % intervals, which let the rest lie along an axis as far as two axes of the "
        f"base lie along each other{alike}; * where 0 is outside. By chance is the standard "
        "deviation of the cosine of a random direction."
    )
    missing = {} if found.missing is None else {"the angle in predictions": found.missing}
    lines = [paragraph(found.verdict), "", table(headers, rows), "", paragraph(said)]
    return "\n".join([*lines, *describe_missing(missing)])


_FEW = 6


@command("interference")
@click.argument("terms", type=DIAL, nargs=-1, metavar="[AXIS[@V][:ETA]...]")
@request_options("Comparing", leave="seed", rank={"type": WholeRange(1), "metavar": "RANK"})
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
@_measured
def interference(
    common: Common, terms: tuple[Term, ...], plot: Path | None, **options: Any
) -> None:
    """Compare vectors in the weights: angles, sign conflicts, shared subspaces.

    Without an AXIS, the newest version of every axis on the base. Only --functional and --leakage
    load a model; the options of prompts and data are theirs.
    """
    asked = {"functional": options.pop("functional"), "leakage": options.pop("leakage")}
    compared: dict[str, Any] = {name: options.pop(name, None) for name in ("rank", "draws")}
    compared |= {name: options.get(name) for name in ("base", "seed", "at")}
    compared = {name: value for name, value in compared.items() if value is not None}
    registry = common.open_registry()
    effects = None
    with progress_bars(common) as progress:
        found = registry.interference(terms, progress=progress, **compared)
        if any(asked.values()):
            effects = registry.behaviour(terms, progress=progress, **asked, **options)
    if plot is not None:
        from prefreg import api

        api.draw_interference(found, effects, plot)
        common.note(f"Drawn in {plot}.")
    data, text = found.to_json(), _describe_interference(found)
    if effects is not None:
        data |= effects.to_json()
        text += "\n\n" + _describe_effects(effects)
    common.emit("interference", data, text, asked=True)


def _describe_effects(found: "DialEffects") -> str:
    parts = []
    if found.functional is not None:
        parts.append(_describe_functional(found, found.functional))
    if found.leakage is not None:
        parts.append(_describe_leakage(found.leakage))
    return "\n\n".join(parts)


def _describe_functional(found: "DialEffects", functional: "Functional") -> str:
    names = [str(term.record) for term in found.terms]
    cosines = functional.geometry.cosines
    rows = [
        (
            name,
            show(functional.lengths[place]),
            *("-" if to == place else show_figure(cosines[place, to]) for to in range(len(names))),
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
            paragraph(
                f"{found.formula}: predicted KL {show(functional.predicted)} nats an answer, "
                f"measured {show(functional.measured)}: {said}"
            ),
        ]
    )


def _describe_leakage(leakage: "Leakage") -> str:
    rows = [
        (axis, *(show(entry, signed=True) for entry in row))
        for axis, row in zip(leakage.axes, leakage.entries, strict=True)
    ]
    lines = [
        table((f"{heading(leakage.of)} OF", *leakage.dials), rows),
        "",
        paragraph(
            "Base standard deviations per unit of η, near the base, with 95 % intervals for this φ."
        ),
    ]
    if leakage.condition is not None:
        lines.append(f"Condition number {leakage.condition:.2f}.")
    lines += describe_missing(leakage.missing)
    return "\n".join(lines)


def _describe_interference(found: "Interference") -> str:
    names = [str(term.record) for term in found.terms]
    rows = [
        (
            f"{names[pair.first]} · {names[pair.second]}",
            show_figure(pair.cosine),
            show_figure(pair.conflicts),
            show_figure(pair.conflicting_mass),
            f"{show_figure(pair.overlap)} ({show_figure(pair.expected_overlap)})",
            "-" if pair.sti is None else f"{pair.sti.value:.3g} ({pair.sti.null:.3g})",
            "-" if pair.sti is None else f"{pair.sti.p:.3f}",
        )
        for pair in found.geometry.pairs
    ]
    headers = ("VECTORS", "COSINE", "CONFLICTS", "BY MASS", "OVERLAP", "STI", "P")
    return "\n".join(
        [
            table(headers, rows, spare=("P", "BY MASS")),
            "",
            table(*_layer_lines(found)),
            "",
            paragraph(_describe_sti(found.geometry.sti, found)),
            paragraph(
                "In brackets, what random subspaces of the same shapes and spectra share. "
                "Conflicts: of the weights that both change, the share moved in opposite "
                "directions; by chance .5."
            ),
        ]
    )


def _layer_lines(found: "Interference") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Write one row a layer, with the cosines where there are few; --json has them all."""
    pairs = found.geometry.pairs if len(found.geometry.pairs) <= _FEW else ()
    names = [term.record.axis for term in found.terms]
    columns = [f"{names[pair.first]}·{names[pair.second]}" for pair in pairs]
    rows = [
        (
            each.layer,
            "-" if each.sti is None else f"{each.sti.ratio:.2f}",
            *(show_figure(each.cosines[pair.first, pair.second]) for pair in pairs),
        )
        for each in found.geometry.layers
    ]
    return ("LAYER", "STI × CHANCE", *columns), rows


def _describe_sti(sti: "Sti | None", found: "Interference") -> str:
    if sti is None:
        return "No two of the vectors share a matrix, so there is no interference of subspaces."
    return (
        f"Singular task interference of all {len(found.terms)}: {sti.value:.3g}, {sti.ratio:.2f} "
        f"times that of random subspaces, {sti.null:.3g} [{sti.null_low:.3g}, "
        f"{sti.null_high:.3g}] (p {sti.p:.3f})."
    )


COMMANDS = [range_, calibrate, profile, diagnose, interference, audit]
