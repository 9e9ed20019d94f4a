"""Adding an axis: train its ± pair and store φ in the registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import TOO_LONG, Common, command, human_size, human_time, sections
from prefreg.cli.progress import stage_progress
from prefreg.cli.views import version_view
from prefreg.errors import UsageError
from prefreg.registry import VersionRecord

if TYPE_CHECKING:
    from prefreg.flows.add_axis import AxisPreview
    from prefreg.flows.planning import AxisPlan, TokenCounts


@command("add-axis")
@click.argument("name", metavar="NAME_OR_YAML")
@click.option(
    "--base", help="Base model: a folder or a hub id.  [default: the last one, or pocket]"
)
@click.option(
    "--data",
    multiple=True,
    metavar="SOURCE_OR_FILE[:WEIGHT]",
    help="One of the axis' sources, or a .jsonl[.gz] file; repeat it for several. "
    "SOURCE@REVISION pins one.",
)
@click.option(
    "--plus",
    metavar="DIR_OR_ID",
    help="A checkpoint that is the positive pole already; only the other is trained.",
)
@click.option("--minus", metavar="DIR_OR_ID", help="The same for the negative pole.")
@click.option("--limit", type=click.IntRange(1), help="Read at most this many rows.")
@click.option("--revision", help="Revision of the data set.  [default: the newest]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data order.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of prompt and answer together.")
@TOO_LONG
@click.option("--note", help="A line to remember the version by.")
@click.option("--tag", "tags", multiple=True, help="A word to group versions by; may be repeated.")
@click.option("--preset", help="A set of hyper-parameters: paper or quick.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="YAML file of DPOConfig fields.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One DPOConfig field."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Storage dtype of the vector.",
)
@click.option("--lora", type=click.IntRange(1), metavar="RANK", help="Train LoRA of this rank.")
@click.option(
    "--lora-alpha",
    type=click.FloatRange(0, min_open=True),
    help="LoRA is scaled by alpha / RANK.  [default: twice RANK]",
)
@click.option(
    "--lora-targets",
    metavar="NAME,...",
    default="",
    show_default="every linear layer but the head",
    help="Linear layers, as in q_proj,v_proj.",
)
@click.option("--rslora", is_flag=True, help="Scale LoRA by alpha / √RANK instead.")
@click.option(
    "--length-balanced",
    is_flag=True,
    help="Leave pairs out so that the longer answer is the chosen one half of the time.",
)
@click.option(
    "--accept-licence",
    is_flag=True,
    help="Use data whose licence forbids commercial use.",
)
@click.option("--dry-run", is_flag=True, help="Show the audit and some tokens; train nothing.")
@click.option(
    "--plan", is_flag=True, help="Say what it would take in memory, time and disk; store nothing."
)
@click.option("--fresh", is_flag=True, help="Start over, whatever an ended run has left.")
@click.option(
    "--watch/--no-watch",
    default=True,
    show_default=True,
    help="Look at held-out pairs in training, and stop a pole that collapses.",
)
@click.option(
    "--answers",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Held-out prompts that a pole answers now and then; 0 leaves it out.",
)
@click.option(
    "--guard", "guards", multiple=True, metavar="KEY=NUMBER", help="One threshold of the guards."
)
@click.option("--keep-anyway", is_flag=True, help="Store the vector even if a guard refuses it.")
def add_axis(
    common: Common,
    name: str,
    dry_run: bool,
    plan: bool,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Train the ± pair of an axis and store φ = θ₊ − θ₋ as a new version.

    The axis is an installed one, or one that a file like ./tone.yaml declares.
    """
    from prefreg.flows.axis_request import AxisRequest

    if dry_run and plan:
        raise UsageError("--dry-run shows the data, --plan the cost: give one of them.")
    options["lora_targets"] = [part for part in options["lora_targets"].split(",") if part]
    request = AxisRequest(name, settings=assignments, **options)
    registry = common.open_registry()
    if dry_run:
        preview = registry.preview_axis(request, note=common.note)
        common.emit("add-axis", preview.as_dict(), _describe_preview(preview), asked=True)
        return
    if plan:
        planned = registry.plan_axis(request, note=common.note)
        common.emit("add-axis", planned.as_dict(), _describe_plan(planned), asked=True)
        return
    with stage_progress(common) as progress:
        record = registry.add_axis(request, progress=progress, note=common.note)
    common.emit("add-axis", version_view(record), _describe(record))


def _describe(record: VersionRecord) -> str:
    size = human_size(record.size)
    lines = [f"Added {record} on {record.base.name} ({size}, sha256 {record.sha256[:12]})."]
    for name, pole in record.metadata["poles"].items():
        for warned in pole.get("warnings", ()):
            lines.append(f"The {name} pole at step {warned['step']}: {warned['reason']}.")
        if stop := pole.get("stopped"):
            lines.append(
                f"The {name} pole was stopped early: {stop['reason']} at step {stop['step']}; "
                f"step {stop['kept']} is kept."
            )
    return "\n".join(lines)


def _describe_preview(preview: "AxisPreview") -> str:
    facts: dict[str, object] = {
        "axis": preview.axis,
        "base": preview.base,
        "source": preview.source + (f"@{preview.revision}" if preview.revision else ""),
        "rendering": ", ".join(preview.renderings),
        "max length": preview.max_length,
    }
    audit = {
        name: f"{value:.3f}" if isinstance(value, float) else value
        for name, value in preview.audit.as_dict().items()
    }
    if len(preview.sources) > 1:
        for part in preview.sources:
            ended = ", then it ended" if part["ended"] else ""
            facts[f"- {part['source']}"] = f"{part['rows']} rows ({part['share']:.2f}){ended}"
    lines = [sections(facts), "", "audit", sections(audit), "", "settings"]
    lines.append(sections(preview.settings))
    for number, example in enumerate(preview.examples, 1):
        lines += ["", f"example {number}"]
        for role in ("prompt", "chosen", "rejected"):
            tokens = " ".join(f"{token.text}·{token.id}" for token in example if token.role == role)
            lines.append(f"  {role:<9}{tokens}")
    return "\n".join(lines)


def _describe_plan(plan: "AxisPlan") -> str:
    need = plan.memory
    where = f"{human_size(need.activations)} activations, {human_size(need.copies)} copies"
    free = f"{human_size(plan.free.main)} free"
    if plan.free.gpu is not None:
        free = f"{human_size(plan.free.gpu)} free on the GPU, {free} beside it"
    facts: dict[str, object] = {
        "axis": plan.axis,
        "base": plan.base,
        "source": plan.source,
        "pairs": f"{plan.train.pairs} to train on, {plan.heldout.pairs} held out",
        "tokens": f"{_tokens(plan.train)} to train on, {_tokens(plan.heldout)} held out",
        "longest": f"{plan.train.longest} of {plan.max_length} tokens "
        f"({plan.truncated} pairs cut, {plan.dropped_long} dropped)",
        "steps": f"{plan.steps} of {plan.pairs_per_step} pairs for each of {plan.poles} poles",
        "memory": f"about {human_size(need.total)} ({human_size(need.model)} weights, gradients "
        f"and moments, {where}); {free}",
        "disk": f"vector {human_size(plan.vector)}, until it is stored {human_size(plan.scratch)} "
        f"in the cache; {human_size(plan.free_disk)} free",
    }
    if plan.duration is not None and plan.seconds is not None:
        each = plan.duration
        facts["time"] = (
            f"about {human_time(plan.seconds)} (reference {human_time(each.reference)}, each pole "
            f"{human_time(each.pole)}, its report {human_time(each.scoring)}), measured on a few "
            "steps"
        )
    lines = [sections(facts)]
    return "\n".join([*lines, "", plan.problem] if plan.problem else lines)


def _tokens(counts: "TokenCounts") -> str:
    return (
        f"{counts.prompt + counts.chosen + counts.rejected:,} ({counts.prompt:,} prompt, "
        f"{counts.chosen:,} chosen, {counts.rejected:,} rejected)"
    )


COMMANDS = (add_axis,)
