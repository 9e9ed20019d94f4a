"""Use what is stored: compose a checkpoint, or in memory to answer, or write for other tools."""

import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import AT, FILE, TERM, Common, command, request_options
from prefreg.cli.printing import progress_bars, sections
from prefreg.errors import RangeWarning, UsageError
from prefreg.files import human_size
from prefreg.requests import make_request
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.composition.adapter import Compression
    from prefreg.composition.compose import CompositionPlan
    from prefreg.composition.output import Composed

_DTYPES = {"type": click.Choice(["float32", "bfloat16", "float16"])}
_OUTPUT = {"type": click.Path(path_type=Path, file_okay=False)}
_BASE = "Base model: a folder or a hub id.  [default: the one base that has every term]"
_CALIBRATED = click.option(
    "--calibrated", is_flag=True, help="Read each ETA in units of `prefreg calibrate`."
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
def compose(
    common: Common,
    terms: tuple[Term, ...],
    recipe: Path | None,
    calibrated: bool,
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
    if calibrated and recipe is not None:
        raise UsageError("A recipe holds raw coefficients already: leave --calibrated out.")
    options["options"] = _settings(settings, protect)
    registry = common.open_registry()
    if calibrated:
        terms = registry.raw_terms(terms, options.get("base"), at=options.get("at"))
    if recipe is not None:
        request = api.read_recipe(recipe, **options)
    else:
        request = make_request(CompositionRequest, terms, **options)
    if request.form == "adapter":
        if plan:
            raise UsageError("--plan tells of checkpoints; an adapter is a small file.")
        adapter = registry.compose_adapter(request)
        made = adapter.to_json()
        common.emit("compose", made, _describe_written(made, adapter.compression))
        _warn(common, "Note", adapter.warnings)
    elif plan:
        planned = registry.plan(request)
        common.emit("compose", planned.to_json(), _describe_plan(planned), asked=True)
    else:
        with progress_bars(common, of_bytes=True) as progress:
            composed = registry.compose(request, progress=progress)
        common.emit("compose", composed.to_json(), _describe_composed(composed))
        _warn(common, "Warning", composed.warnings)


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
        common.note(f"{word}: {warning}")


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
@click.option("-p", "--prompt", "prompts", required=True, multiple=True, help="What to answer.")
@click.option("--base", help=_BASE)
@request_options("Sampling")
@_CALIBRATED
@AT
def generate(
    common: Common,
    terms: tuple[Term, ...],
    prompts: tuple[str, ...],
    base: str | None,
    calibrated: bool,
    at: datetime | None,
    **options: Any,
) -> None:
    """Compose in memory and answer; without a TERM, the base model answers."""
    registry = common.open_registry()
    if calibrated:
        terms = registry.raw_terms(terms, base, at=at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RangeWarning)  # told below
        model = registry.load(base, terms, at=at)
    answers = model.generate(prompts, **options)
    data = {
        "terms": list(map(str, terms)),
        "answers": [
            {"prompt": prompt, "answer": answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ],
        "warnings": list(model.warnings),
    }
    common.emit("generate", data, "\n\n".join(answers), asked=True)
    _warn(common, "Warning", model.warnings)


@command("export")
@click.argument("what", nargs=-1, required=True, metavar="AXIS[@V]|TERM...")
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
