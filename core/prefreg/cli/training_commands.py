"""Adding an axis: train its ± pair and store φ in the registry."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import (
    PLOT,
    TOO_LONG,
    Common,
    command,
    human_time,
    sections,
    table,
)
from prefreg.cli.printing import identity_view, stage_progress, version_view
from prefreg.errors import UsageError
from prefreg.files import human_size
from prefreg.registry import VersionRecord

if TYPE_CHECKING:
    from prefreg.evaluation.consistency import Consistency, Spread
    from prefreg.training.add_axis import AxisPreview
    from prefreg.training.run_plan import AxisPlan, TokenCounts
    from prefreg.training.sft.fine_tuning import SFTResult


@command("add-axis")
@click.argument("name", metavar="NAME_OR_YAML")
@click.option(
    "--base", help="Base model: a folder or a hub id.  [default: the last one, or pocket]"
)
@click.option(
    "--data",
    multiple=True,
    metavar="SOURCE_OR_FILE[:WEIGHT]",
    help="One of the axis' sources, or a file of rows; repeat it for several. "
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
    from prefreg.training.axis_request import AxisRequest

    if dry_run and plan:
        raise UsageError("--dry-run shows the data, --plan the cost: give one of them.")
    options["lora_targets"] = [part for part in options["lora_targets"].split(",") if part]
    request = AxisRequest(name, settings=assignments, **options)
    registry = common.open_registry()
    if dry_run:
        preview = registry.preview_axis(request, note=common.note)
        common.emit("add-axis", preview.to_json(), _describe_preview(preview), asked=True)
        return
    if plan:
        planned = registry.plan_axis(request, note=common.note)
        common.emit("add-axis", planned.to_json(), _describe_plan(planned), asked=True)
        return
    with stage_progress(common) as progress:
        record = registry.add_axis(request, progress=progress, note=common.note)
    common.emit("add-axis", version_view(record), _describe_version(record))


def _describe_version(record: VersionRecord) -> str:
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
        for name, value in preview.audit.to_json().items()
    }
    if len(preview.sources) > 1:
        for part in preview.sources:
            ended = ", then it ended" if part["ended"] else ""
            facts[f"- {part['source']}"] = f"{part['rows']} rows ({part['share']:.2f}){ended}"
    lines = [sections(facts), *preview.notes, "", "audit", sections(audit), "", "settings"]
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


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@command("sft")
@click.option("--base", metavar="DIR_OR_ID", help="The raw model: a folder or a hub id.")
@click.option(
    "--from-config",
    type=click.Path(path_type=Path, exists=True),
    metavar="CONFIG.json",
    help="Start from random weights instead; the tokenizer lies beside the file.",
)
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A file of rows with answers."
)
@click.option(
    "--heldout",
    type=click.Path(path_type=Path),
    help="Held-out answers.  [default: of a tenth of the prompts, at most 200]",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the model."
)
@click.option("--limit", type=click.IntRange(1), help="Read at most this many rows.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of prompt and answer together.")
@TOO_LONG
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data order.")
@click.option("--preset", help="A set of hyper-parameters: paper, quick or scratch.")
@click.option("--config", type=_FILE, help="YAML file of SFTConfig fields.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One SFTConfig field.")
@click.option(
    "--chat-template", type=_FILE, help="Jinja file.  [default: the model's own, or a plain one]"
)
def sft(common: Common, **options: Any) -> None:
    """Fine-tune a raw model on instructions, as the base model of later axes.

    A row has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`.
    Only answers are learnt. The folder is a plain checkpoint with its record in prefreg.json, and
    the registry's last base, which `prefreg add-axis` takes.
    """
    from prefreg.training.axis_request import SFTRequest

    registry = common.open_registry()
    with stage_progress(common) as progress:
        result = registry.sft(SFTRequest(**options), progress=progress, note=common.note)
    data = {
        "output": str(options["output"]),
        "base": identity_view(result.identity),
        "record": result.record,
    }
    common.emit("sft", data, _describe_base(result, options["output"]))


def _describe_base(result: "SFTResult", output: Path) -> str:
    audit, losses = result.record["data"]["audit"], result.record["heldout_loss"]
    dropped = audit["empty"] + audit["duplicates"] + audit["dropped_long"]
    learnt = f"Learnt {audit['train']} answers in {result.record['training']['steps']} steps"
    counted = (
        f" ({dropped} dropped, {audit['truncated']} cut)" if dropped or audit["truncated"] else ""
    )
    loss = (
        f" Held-out loss: {losses['before']:.3f} before, {losses['after']:.3f} after, in nats a "
        f"token of {audit['heldout']} answers."
        if losses["after"] is not None
        else ""
    )
    return f"{learnt}{counted}.{loss}\nWrote {output}, the base that add-axis takes from now on."


_TRAINING = frozenset(
    {
        "base",
        "data",
        "limit",
        "revision",
        "max_length",
        "preset",
        "config",
        "assignments",
        "dtype",
        "lora",
        "lora_alpha",
        "lora_targets",
        "rslora",
        "length_balanced",
        "accept_licence",
        "keep_anyway",
    }
)
"""The options of `add-axis` that say how an axis is trained."""

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_MOST = 1000


class SeedsType(click.ParamType[tuple[int, ...]]):
    """Seeds, as in `0,1,5-7`."""

    name = "seeds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read the seeds; malformed text is wrong usage."""
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for part in value.split(","):
            found = _RANGE.fullmatch(part.strip())
            if found is None:
                self.fail(f"{part!r} is no seed: write whole numbers, as in 0,1,2 or 0-7.")
            first, last = int(found[1]), int(found[2] or found[1])
            if not first <= last < first + _MOST:
                self.fail(f"{part!r} is no range of seeds.")
            seeds += range(first, last + 1)
        return tuple(seeds)


@command("consistency")
@click.argument("name", metavar="NAME_OR_YAML")
@click.option(
    "--seeds", type=SeedsType(), required=True, metavar="S,S…", help="As in 0,1,2 or 0-7."
)
@click.option("--same-pairs", is_flag=True, help="Train every seed on the pairs of the first one.")
@click.option(
    "--halves",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Cut the pairs into two halves N times, and train both.",
)
@click.option(
    "--null",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Train N times on labels of which a random half is switched.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("consistency.db"),
    show_default=True,
    help="Registry for what has to be trained.",
)
@click.option("--store", is_flag=True, help="Store missing seeds in the registry itself.")
@PLOT
def consistency(
    common: Common,
    name: str,
    seeds: tuple[int, ...],
    same_pairs: bool,
    halves: int,
    null: int,
    scratch: Path,
    store: bool,
    plot: Path | None,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Measure how much of a vector is the same for every seed.

    Versions of these seeds with the options given are taken from the registry; what is missing is
    trained into --scratch, where a later call finds it, and the registry stays as it is.
    """
    from prefreg.evaluation.evaluation_request import ConsistencyRequest
    from prefreg.training.axis_request import AxisRequest

    options["lora_targets"] = [part for part in options["lora_targets"].split(",") if part]
    request = ConsistencyRequest(
        AxisRequest(name, settings=assignments, **options),
        seeds,
        same_pairs=same_pairs,
        halves=halves,
        null=null,
        scratch=scratch,
        store=store,
    )
    with stage_progress(common) as progress:
        found = common.open_registry().consistency(request, progress=progress, note=common.note)
    if plot is not None:
        _draw(found, plot)
    common.emit("consistency", found.to_json(), _describe_consistency(found), asked=True)


# How an axis is trained is said as for `add-axis`.
consistency.params[2:2] = [each for each in add_axis.params if each.name in _TRAINING]


def _draw(found: "Consistency", plot: Path) -> None:
    from prefreg.evaluation.plots import draw_consistency

    draw_consistency(
        plot,
        title=f"{found.axis} on {found.base}: {len(found.seeds)} seeds",
        caption=f"share of signal {found.vectors.share}; lines are {_interval(found)}",
        seeds=found.seeds,
        cosines=found.cosines,
        layers=found.layers,
    )


def _interval(found: "Consistency") -> str:
    if found.vectors.share.kind == "range":
        return "the range over pairs of seeds, no interval"
    return "95 % intervals, jackknife over seeds"


def _describe_consistency(found: "Consistency") -> str:
    drawn = {"same": "on the same pairs", "drawn": "each on pairs of its own"}[found.pairs]
    lines = [f"{found.axis} on {found.base}: {len(found.seeds)} seeds, {drawn}", ""]
    rows = _rows(found)
    lines += [table(("", "VALUE", "LOW", "HIGH"), rows), ""]
    lines.append(f"LOW and HIGH: {_interval(found)}.")
    lines.append(
        f"The mean of the {len(found.seeds)} vectors would have {found.vectors.averaged:.3f} "
        "of signal (Spearman-Brown)."
    )
    lines += _describe_effects(found)
    if found.halves is not None:
        each = ", ".join(f"{value:.3f}" for value in found.halves.cosines)
        lines.append(
            f"Halves of the pairs: cosine {each}; {found.halves.corrected:.3f} expected of whole "
            "sets (Spearman-Brown)."
        )
    if found.null is not None:
        effects = found.null.effects
        for place, (power, cosine) in enumerate(
            zip(found.null.power, found.null.cosines, strict=True)
        ):
            effect = "" if effects is None else f", {effects[place]:.3f} of their effect"
            lines.append(
                f"Shuffled labels: {power:.3f} of the seeds' ‖φ‖², cosine {cosine:.3f} with their "
                f"mean{effect}."
            )
    return "\n".join(lines)


def _rows(found: "Consistency") -> list[tuple[str, ...]]:
    figures: dict[str, Spread] = {
        "signal ‖μ‖²": found.vectors.signal,
        "noise": found.vectors.noise,
        "share of signal": found.vectors.share,
        "cosine of two seeds": found.vectors.cosine,
        **{f"- {name}": spread for name, spread in found.layers.items()},
    }
    if found.energy is not None:
        figures |= {
            "poles: common energy": found.energy.common,
            "poles: differential energy": found.energy.differential,
            "poles: share differential": found.energy.share,
        }
    if found.effects.correlation is not None:
        figures["correlation of effects"] = found.effects.correlation
    return [
        (name, *(f"{value:.4g}" for value in (spread.value, spread.low, spread.high)))
        for name, spread in figures.items()
    ]


def _describe_effects(found: "Consistency") -> list[str]:
    effects = found.effects
    lines = []
    if effects.margins:
        low, high = min(effects.margins), max(effects.margins)
        lines.append(
            f"At η = 1 the margin of {effects.pairs} held-out pairs grows by {low:.2f} to "
            f"{high:.2f} nats, by seed."
        )
    if effects.left_out:
        lines.append(f"{effects.left_out} more were left out: another seed trained on them.")
    if effects.reason is not None:
        lines.append(f"No correlation of effects: {effects.reason}.")
    return lines


COMMANDS = [add_axis, sft, consistency]
