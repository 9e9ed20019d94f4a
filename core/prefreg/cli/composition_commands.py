"""Use what is stored: compose a checkpoint, or in memory to answer, or write for other tools."""

import sys
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli import completing
from prefreg.cli.options import (
    AT,
    FILE,
    REFERENCE,
    TERM,
    Common,
    Dtype,
    Reference,
    WholeRange,
    base_option,
    command,
    read_text,
    request_options,
)
from prefreg.cli.printing import progress_bars, tell_licences
from prefreg.cli.tables import paragraph, sections, table
from prefreg.errors import RangeWarning, UsageError
from prefreg.files import human_size
from prefreg.requests import make_request
from prefreg.terms import Term, brief_eta
from prefreg.values import DTYPES

if TYPE_CHECKING:
    from prefreg.choosing.decouple import Decoupled
    from prefreg.composition.adapter import Compression
    from prefreg.composition.compose import CompositionPlan
    from prefreg.composition.implicit_reward import RankedAnswer
    from prefreg.composition.output import Composed

_DTYPES = {"type": Dtype(DTYPES)}
_OUTPUT = {"type": click.Path(path_type=Path, file_okay=False)}
_BASE = "Base model: a name, folder, GGUF file or hub id.  [default: the one that has every term]"
_CALIBRATED = click.option(
    "--calibrated", is_flag=True, help="Read each ETA in units of `prefreg calibrate`."
)
_DECOUPLE = click.option(
    "--decouple",
    is_flag=True,
    help="Read each ETA as the effect wanted on that axis, 0 as none, and find η.",
)
_ON = click.option(
    "--decouple-prompts",
    type=WholeRange(1),
    metavar="N",
    help="Prompts that --decouple measures effects on.  [default: 400]",
)


@command("compose")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@request_options(
    "CompositionRequest",
    leave="terms options rules hashes",
    output=_OUTPUT | {"show_default": "composed/"},
    dtype=_DTYPES,
    rounding={"type": click.Choice(["nearest", "stochastic"])},
    form={"type": click.Choice(["checkpoint", "adapter"])},
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method."
)
@click.option("--protect", metavar="AXES", help="Order of gram-schmidt, as in harmless,helpful.")
@click.option(
    "--recipe",
    type=FILE,
    help="Take everything from a recipe, such as an output's prefreg.json; options win over it.",
)
@click.option("--plan", is_flag=True, help="Say what would be read and written; write nothing.")
@_CALIBRATED
@_DECOUPLE
@_ON
def compose(
    common: Common,
    terms: tuple[Term, ...],
    recipe: Path | None,
    calibrated: bool,
    decouple: bool,
    decouple_prompts: int | None,
    plan: bool,
    settings: tuple[str, ...],
    protect: str | None,
    **options: Any,
) -> None:
    """Write θ_base + Σ ηᵢ·φᵢ as a Hugging Face checkpoint.

    A TERM is AXIS[@VERSION|@ALIAS]:ETA. Without a version, the newest one on the base is used.
    """
    from prefreg import CompositionRequest, api

    if bool(terms) == (recipe is not None):
        raise UsageError("Give at least one TERM, as in helpful:1, or --recipe FILE (not both).")
    if (calibrated or decouple) and recipe is not None:
        way = "--calibrated" if calibrated else "--decouple"
        raise UsageError(f"A recipe holds raw coefficients already: leave {way} out.")
    options["options"] = _settings(settings, protect)
    registry = common.open_registry()
    place: dict[str, Any] = {key: value for key, value in options.items() if key in ("base", "at")}
    terms, found = _raw_terms(common, terms, calibrated, decouple, decouple_prompts, place)
    told = {"decoupled": found.to_json()} if found else {}
    if recipe is not None:
        request = api.read_recipe(recipe, **options)
    else:
        request = make_request(CompositionRequest, terms, **options)
    if request.form == "adapter":
        if plan:
            raise UsageError("--plan tells of checkpoints; an adapter is a small file.")
        adapter = registry.compose_adapter(request)
        made = adapter.to_json() | told
        common.emit("compose", made, _describe_written(made, adapter.compression))
        tell_licences(common, adapter.licences)
        _warn(common, "Note", adapter.warnings)
    elif plan:
        planned = registry.plan(request)
        common.emit("compose", planned.to_json() | told, _describe_plan(planned), asked=True)
    else:
        with progress_bars(common, of_bytes=True) as progress:
            composed = registry.compose(request, progress=progress)
        common.emit("compose", composed.to_json() | told, _describe_composed(composed))
        tell_licences(common, composed.licences)
        _warn(common, "Warning", composed.warnings)


def _raw_terms(
    common: Common,
    terms: tuple[Term, ...],
    calibrated: bool,
    decouple: bool,
    prompts: int | None,
    place: Mapping[str, Any],
) -> "tuple[tuple[Term, ...], Decoupled | None]":
    """Return the coefficients of terms that say calibrated units, or effects that are wanted."""
    if prompts is not None and not decouple:
        raise UsageError("--decouple-prompts says what --decouple measures on: give that too.")
    if calibrated and decouple:
        raise UsageError("--decouple reads effects, which need no --calibrated: leave one out.")
    registry = common.open_registry()
    if calibrated:
        return registry.raw_terms(terms, **place), None
    if not decouple:
        return terms, None
    own: dict[str, Any] = {} if prompts is None else {"prompts": prompts}
    with progress_bars(common) as progress:
        found = registry.decouple(terms, progress=progress, **place, **own)
    common.note(describe_decoupled(found))
    return found.terms, found


def describe_decoupled(found: "Decoupled") -> str:
    """Say which η were found, what they do on each axis, and what single prompts do."""
    rows = [
        (
            aim.axis,
            brief_eta(term.eta),
            f"{aim.wanted:+g}",
            f"{aim.effect.value:+.2f} [{aim.effect.low:+.2f}, {aim.effect.high:+.2f}]",
            str(aim.unit),
            f"{each.against} of {each.moved} (p {each.p:.2g})",
            "-" if each.spread is None else f"{each.spread:.2f}",
        )
        for aim, term, each in zip(found.aims, found.terms, found.per_prompt, strict=True)
    ]
    headers = ("AXIS", "η", "WANTED", "EFFECT", "IN", "PROMPTS AGAINST", "SPREAD")
    said = (
        f"Means over {found.prompts} prompts with 90 % intervals, for KL {found.kl} nats an "
        "answer. Single prompts differ: of those whose answer changed on an axis, so many moved "
        "against the request (or down, where it shall stay), p of so uneven a split by chance; "
        "the spread of an axis's own slope over prompts is in units of its mean."
    )
    return table(headers, rows) + "\n\n" + paragraph(said)


def _settings(settings: tuple[str, ...], protect: str | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{setting!r} is no setting. Write --set KEY=VALUE.")
        pairs.append((key.strip(), value.strip()))
    if protect is not None:
        pairs.append(("protect", protect))
    return tuple(pairs)


def _warn(common: Common, word: str, warnings: Iterable[str]) -> None:
    for warning in warnings:
        common.note(f"{click.style(f'{word}:', fg='yellow')} {warning}")


def _describe_written(written: dict[str, Any], compression: "Compression | None") -> str:
    """Say what was written for another tool, or to be an adapter."""
    fields = {
        "formula": written["formula"],
        "base": written["base"],
        "rank": written.get("rank"),
        "written": f"{written['path']} ({human_size(written['size'])})",
        "lost": compression and compression.lost,
        "left out": compression and compression.omitted,
    }
    if "config" in written:
        fields["merge"] = f"cd {written['path']} && mergekit-yaml {written['config']} ../merged"
    return sections({name: value for name, value in fields.items() if value is not None})


def _describe_plan(plan: "CompositionPlan") -> str:
    return sections(
        {
            "formula": plan.formula,
            "adds": plan.rule,
            "base": plan.base,
            "reads": human_size(plan.bytes_read),
            "writes": f"{human_size(plan.bytes_written)} to {plan.output}",
            "peak memory": f"about {human_size(plan.peak_memory)}",
            "time": f"about {plan.seconds:.1f} s, if the files are in memory",
        }
    )


def _describe_composed(composed: "Composed") -> str:
    return sections(
        {
            "formula": composed.formula,
            "base": composed.base,
            "survived": f"{composed.gain:.4f} of the change requested, after rounding"
            if composed.gain is not None
            else "nothing was to be added",
            "written": f"{composed.path} ({human_size(composed.size)})",
        }
    )


@command("generate")
@click.argument("terms", type=TERM, nargs=-1, metavar="[TERM...]")
@click.option(
    "-p",
    "--prompt",
    "prompts",
    required=True,
    multiple=True,
    metavar="TEXT",
    help="What to answer; - reads it from standard input.",
)
@base_option(_BASE)
@request_options("Sampling")
@click.option(
    "--template-option",
    "template_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="What the chat template is told.  [default: what it was told in training]",
)
@click.option(
    "--best-of",
    type=WholeRange(2),
    metavar="N",
    help="Draw N answers to each prompt, at temperature 1 unless told otherwise; give the best.",
)
@click.option(
    "--by", type=REFERENCE, metavar="AXIS[@V]", help="The axis that judges which one is best."
)
@_CALIBRATED
@_DECOUPLE
@_ON
@AT
def generate(
    common: Common,
    terms: tuple[Term, ...],
    prompts: tuple[str, ...],
    base: str | None,
    template_options: tuple[str, ...],
    best_of: int | None,
    by: Reference | None,
    calibrated: bool,
    decouple: bool,
    decouple_prompts: int | None,
    at: datetime | None,
    **options: Any,
) -> None:
    """Compose in memory and answer; without a TERM, the base model answers."""
    if (best_of is None) != (by is None):
        raise UsageError("The best answer is that by an axis: give both --best-of and --by.")
    prompts = _read_prompts(prompts)
    registry = common.open_registry()
    place = {"base": base, "at": at}
    terms, found = _raw_terms(common, terms, calibrated, decouple, decouple_prompts, place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RangeWarning)  # told below
        # Without a term, the base is the one that the judge has a version on.
        judge = [] if by is None else [Term(by[0], 0.0, by[1])]
        model = registry.load(base, terms or judge, at=at)
    options["template_options"] = template_options or None
    rankings: list[list[RankedAnswer]] = []
    if best_of is None:
        answers = model.generate(prompts, **options)
    else:
        rankings = model.best_of(prompts, best_of, by=judge[0], **options)
        answers = [ranking[0].answer for ranking in rankings]
    data: dict[str, Any] = {
        "terms": list(map(str, terms)),
        "answers": [
            {"prompt": prompt, "answer": answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ],
        "warnings": list(model.warnings),
    }
    for answered, ranking in zip(data["answers"], rankings, strict=False):
        answered["ranked"] = [each.to_json() for each in ranking]
    if found:
        data["decoupled"] = found.to_json()
    common.emit("generate", data, _describe_answers(prompts, answers), asked=True)
    _warn(common, "Warning", model.warnings)


def _read_prompts(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Put what standard input holds in the place of a dash."""
    if prompts.count("-") > 1:
        raise UsageError("Standard input is one prompt: give `-p -` once.")
    if "-" not in prompts:
        return prompts
    text = read_text(sys.stdin.read).rstrip("\n")
    return tuple(text if prompt == "-" else prompt for prompt in prompts)


def _describe_answers(prompts: tuple[str, ...], answers: list[str]) -> str:
    """Write the answer, or each of several below its prompt."""
    if len(answers) == 1:
        return answers[0]
    asked = [click.style(f"> {prompt}", bold=True) for prompt in prompts]
    return "\n\n".join(f"{ask}\n{answer}" for ask, answer in zip(asked, answers, strict=True))


@command("export")
@click.argument(
    "what",
    nargs=-1,
    required=True,
    metavar="AXIS[@V]|TERM...",
    shell_complete=completing.VERSIONS,
)
@request_options(
    "ExportRequest",
    leave="what",
    output=_OUTPUT,
    max_rank={"names": ["--rank", "--max-rank"]},
    dtype=_DTYPES,
)
def export(common: Common, what: tuple[str, ...], **options: Any) -> None:
    """Write stored vectors in the form that another tool takes."""
    with progress_bars(common, of_bytes=True) as progress:
        made = common.open_registry().export(what, progress=progress, **options)
    common.emit("export", made.to_json(), _describe_written(made.written, made.compression))
    _warn(common, "Note", made.written.get("warnings", ()))


COMMANDS = [compose, generate, export]
