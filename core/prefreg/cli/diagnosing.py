"""Name what is wrong with a composition."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.evaluating import make_request, measuring_options
from prefreg.cli.options import TERM, Common, command, table
from prefreg.cli.progress import stage_progress
from prefreg.terms import Term, format_eta

if TYPE_CHECKING:
    from prefreg.evaluation.geometry.symptoms import Shares
    from prefreg.flows.geometry.diagnose import Diagnosis


@command("diagnose")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@measuring_options
def diagnose(common: Common, terms: tuple[Term, ...], **options: Any) -> None:
    """Measure a composition and each of its dials alone, and name what is wrong.

    Weak: an axis moves its held-out margin by less than .25 standard deviations of the base.
    Over-refusing: more than 10 % of the safe requests are refused. Incoherent: more than 2 % of the
    answers are malformed. Each with its cause and what to do.
    """
    registry = common.open_registry()
    with stage_progress(common) as progress:
        found = registry.diagnose(terms, make_request(**options), progress=progress)
    data = {
        "formula": found.formula,
        "prompts": found.prompts,
        "findings": [asdict(finding) for finding in found.findings],
        "strengths": [asdict(strength) for strength in found.strengths],
        "refusals": _view(found.refusals),
        "malformed": _view(found.malformed),
        "unmeasured": found.unmeasured,
    }
    common.emit("diagnose", data, _describe(found), asked=True)


def _view(shares: "Shares | None") -> dict[str, Any] | None:
    if shares is None:
        return None
    return {
        "base": shares.base,
        "composition": shares.cast,
        "alone": [{"dial": dial, "share": share} for dial, share in shares.alone.items()],
        "at_pole": [{"dial": dial, "share": share} for dial, share in shares.at_pole.items()],
    }


def _describe(found: "Diagnosis") -> str:
    lines = [found.formula, ""]
    if found.strengths:
        rows = [
            (
                each.dial,
                f"{each.cast:+.2f}",
                f"{each.alone:+.2f} at {format_eta(each.eta)}",
                f"{each.further:+.2f} at {format_eta(each.further_eta)}",
            )
            for each in found.strengths
        ]
        lines += [table(("MARGIN OF", "HERE", "ALONE", "ALONE, FURTHER"), rows), ""]
    for name, shares in (("SAFE REFUSED", found.refusals), ("MALFORMED", found.malformed)):
        if shares is not None:
            lines += [table((name, "SHARE"), _share_rows(shares)), ""]
    lines += [f"{name} was not measured: {why}." for name, why in found.unmeasured.items()]
    for each in found.findings:
        lines.append(f"{each.sign.upper()}, {each.subject}: {each.cause}. {each.evidence}")
        lines.append(f"  → {each.advice}")
    if not found.findings:
        lines.append("Nothing is wrong with what was measured.")
    lines.append(f"(Margins in standard deviations of the base; {found.prompts} prompts.)")
    return "\n".join(lines)


def _share_rows(shares: "Shares") -> list[tuple[str, str]]:
    alone = [(f"{dial} alone", share) for dial, share in shares.alone.items()]
    rows = [("base", shares.base), ("composition", shares.cast), *alone]
    return [(name, f"{share:.3f}") for name, share in rows]


COMMANDS = (diagnose,)
