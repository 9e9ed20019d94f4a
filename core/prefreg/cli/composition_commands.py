"""Use what is stored: compose a checkpoint, or compose in memory and answer."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import AT, TERM, Common, command, sections
from prefreg.cli.printing import byte_progress
from prefreg.errors import UsageError
from prefreg.files import human_size
from prefreg.terms import Term

if TYPE_CHECKING:
    from prefreg.composition.adapter import AdapterResult
    from prefreg.composition.compose import Composed, CompositionPlan

_DTYPES = ("float32", "bfloat16", "float16")
_BASE_HELP = "Base model: a folder or a hub id.  [default: the one base that has every term]"

CALIBRATED = click.option(
    "--calibrated", is_flag=True, help="Read each ETA in units of `prefreg calibrate`."
)


@command("compose")
@click.argument("terms", type=TERM, nargs=-1, metavar="TERM...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("composed"),
    show_default="composed/",
    help="Folder to write; it appears whole or not at all.",
)
@click.option("--base", help=_BASE_HELP)
@click.option(
    "--method",
    help="How φs are combined: linear, ties, dare, dare_ties, gram-schmidt, shrink, or a "
    "plugin's.  [default: linear]",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method."
)
@click.option("--protect", metavar="AXES", help="Order of gram-schmidt, as in harmless,helpful.")
@click.option("--dtype", type=click.Choice(_DTYPES), help="Output dtype.  [default: the base's]")
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "stochastic"]),
    help="To the nearest number, or at random so that the mean is right.  [default: nearest]",
)
@click.option("--seed", type=int, help="Seed of stochastic rounding.  [default: 0]")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take everything from a recipe, such as an output's prefreg.json; options win over it.",
)
@click.option(
    "--as",
    "form",
    type=click.Choice(["checkpoint", "adapter"]),
    show_default="checkpoint",
    help="Write a whole checkpoint, or one PEFT adapter.",
)
@click.option(
    "--max-rank",
    type=click.IntRange(1),
    help="Rank of an adapter; says the error. Dense vectors need it.",
)
@click.option("--plan", is_flag=True, help="Say what would be read and written; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that prefreg composed.")
@click.option("--max-shard-size", metavar="SIZE", help="Shard size, as in 5GB.  [default: base's]")
@click.option(
    "--device", default="cpu", show_default=True, help="Where sums are taken: cpu, cuda, cuda:1."
)
@click.option("--durable", is_flag=True, help="Wait until every byte is on the disk.")
@click.option("--hash", "hash_files", is_flag=True, help="Record the sha256 of every file.")
@click.option("--verify", is_flag=True, help="Hash every vector again before it is used.")
@click.option("--force-base", is_flag=True, help="Add vectors to a base they do not belong to.")
@click.option(
    "--mix-contrasts", is_flag=True, help="Add vectors of pairs and of positive poles alone."
)
@CALIBRATED
@AT
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
    from prefreg.composition.compose import read_recipe
    from prefreg.composition.composition_request import CompositionRequest

    if bool(terms) == (recipe is not None):
        raise UsageError("Give at least one TERM, as in helpful:1, or --recipe FILE (not both).")
    if calibrated and recipe is not None:
        raise UsageError("A recipe holds raw coefficients already: leave --calibrated out.")
    options["options"] = _settings(settings, protect)
    registry = common.open_registry()
    if calibrated:
        terms = registry.raw_terms(terms, options["base"], at=options["at"])
    if recipe is not None:
        request = read_recipe(recipe, **options)
    else:
        options["form"] = options["form"] or "checkpoint"
        options["method"] = options["method"] or "linear"
        options["rounding"] = options["rounding"] or "nearest"
        options["seed"] = options["seed"] or 0
        request = CompositionRequest(terms, **options)
    if request.form == "adapter":
        if plan:
            raise UsageError("--plan tells of checkpoints; an adapter is a small file.")
        _emit_adapter(common, registry.compose_adapter(request))
        return
    if plan:
        planned = registry.plan(request)
        common.emit("compose", planned.to_json(), _describe_plan(planned), asked=True)
        return
    with byte_progress(common) as progress:
        composed = registry.compose(request, progress=progress)
    common.emit("compose", composed.to_json(), _describe_composed(composed))
    for warning in composed.warnings:
        common.note(f"Warning: {warning}")


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


def _emit_adapter(common: Common, adapter: "AdapterResult") -> None:
    written = adapter.written
    fields: dict[str, object] = {
        "formula": written.formula,
        "base": adapter.base,
        "rank": written.rank,
        "written": f"{written.path} ({human_size(written.size)})",
    }
    if written.compression is not None:
        fields["lost"] = written.compression.lost
        if written.compression.left_out:
            fields["left out"] = written.compression.omitted
    common.emit("compose", adapter.to_json(), sections(fields))
    for warning in adapter.warnings:
        common.note(f"Note: {warning}")


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
@click.option("--base", help=_BASE_HELP)
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token each time.",
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@CALIBRATED
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
    from prefreg.models.sampling import Sampling

    registry = common.open_registry()
    if calibrated:
        terms = registry.raw_terms(terms, base, at=at)
    model = registry.load(base, terms, at=at)
    warnings = registry.range_warnings(terms, base, at=at) if terms else []
    answers = model.generate_all(prompts, Sampling(**options))
    data = {
        "terms": list(map(str, terms)),
        "answers": [
            {"prompt": prompt, "answer": answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ],
        "warnings": warnings,
    }
    # The answers are the result that was asked for, so --quiet keeps them.
    common.emit("generate", data, "")
    if not common.json:
        click.echo("\n\n".join(answers))
    for warning in warnings:
        common.note(f"Warning: {warning}")


_DTYPES = ("float32", "bfloat16", "float16")


@command("export")
@click.argument("what", nargs=-1, required=True, metavar="AXIS[@V]|TERM...")
@click.option(
    "--as",
    "form",
    type=click.Choice(["adapter", "checkpoint", "mergekit"]),
    required=True,
    help="A PEFT adapter or a whole checkpoint of one version, or terms for mergekit to merge.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write; it appears whole or not at all.",
)
@click.option("--base", help="Base model: a folder or a hub id.  [default: the version's own]")
@click.option(
    "--rank",
    "--max-rank",
    "max_rank",
    type=click.IntRange(1),
    help="Rank of an adapter; a dense vector needs one. Says the error.",
)
@click.option(
    "--sign",
    type=click.Choice(["plus", "minus"]),
    help="Checkpoint of θ_base + φ or of θ_base − φ.  [default: plus]",
)
@click.option(
    "--dtype", type=click.Choice(_DTYPES), help="Dtype of a checkpoint.  [default: the base's]"
)
@click.option("--overwrite", is_flag=True, help="Replace a folder that prefreg wrote.")
def export(common: Common, **options: Any) -> None:
    """Write stored vectors in the form that another tool takes."""
    from prefreg.composition.composition_request import ExportRequest

    request = ExportRequest(**options)
    with byte_progress(common) as progress:
        exported = common.open_registry().export(request, progress=progress)
    common.emit("export", exported.to_json(), _describe_exported(exported.written))
    for warning in exported.written.get("warnings", ()):
        common.note(f"Note: {warning}")


def _describe_exported(written: dict[str, Any]) -> str:
    fields: dict[str, object] = {
        "formula": written["formula"],
        "base": written["base"],
        "written": f"{written['path']} ({human_size(written['size'])})",
    }
    if "rank" in written:
        fields["rank"] = written["rank"]
    if found := written.get("compression"):
        # Heavy to import, and made already where there is something to describe.
        from prefreg.composition.factoring import Compression

        compression = Compression(**found)
        fields["lost"] = compression.lost
        if compression.left_out:
            fields["left out"] = compression.omitted
    if "config" in written:
        fields["merge"] = f"cd {written['path']} && mergekit-yaml {written['config']} ../merged"
    return sections(fields)


COMMANDS = [compose, generate, export]
