"""What makes vectors: adding an axis, a base model to add it to, and seeds that are compared."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli import completing
from prefreg.cli.options import FILE, PLOT, Common, command, request_options
from prefreg.cli.printing import human_time, progress_bars
from prefreg.cli.tables import sections, table
from prefreg.errors import UsageError
from prefreg.files import human_size
from prefreg.requests import make_request

if TYPE_CHECKING:
    from prefreg.evaluation.consistency import Consistency
    from prefreg.evaluation.statistics import Spread
    from prefreg.registry import VersionRecord
    from prefreg.training.add_axis import AxisPreview
    from prefreg.training.fine_tuning import SFTResult
    from prefreg.training.run_plan import AxisPlan, TokenCounts


@command("add-axis", takes_several=True)
@click.argument("name", metavar="NAME_OR_YAML", shell_complete=completing.AXES)
@request_options(
    "AxisRequest",
    leave="name",
    data={"metavar": "SOURCE_OR_FILE[:WEIGHT]"},
    plus={"metavar": "DIR_OR_ID"},
    minus={"metavar": "DIR_OR_ID"},
)
@click.option("--dry-run", is_flag=True, help="Show the audit and some tokens; train nothing.")
@click.option(
    "--plan", is_flag=True, help="Say what it would take in memory, time and disk; store nothing."
)
def add_axis(common: Common, name: str, dry_run: bool, plan: bool, **options: Any) -> None:
    """Train the ± pair of an axis and store φ = θ₊ − θ₋ as a new version.

    The axis is an installed one, one that a file like ./tone.yaml declares (two sentences are
    enough: docs/data.md), or, with --data, a new name for a file of rows.
    """
    from prefreg import AxisRequest

    if dry_run and plan:
        raise UsageError("--dry-run shows the data, --plan the cost: give one of them.")
    request = make_request(AxisRequest, name, **options)
    registry = common.open_registry()
    if dry_run:
        with progress_bars(common) as progress:
            preview = registry.preview_axis(request, progress=progress, tell=common.note)
        common.emit("add-axis", preview.to_json(), _describe_preview(preview), asked=True)
    elif plan:
        planned = registry.plan_axis(request, tell=common.note)
        common.emit("add-axis", planned.to_json(), _describe_plan(planned), asked=True)
    else:
        started = datetime.now(UTC)
        with progress_bars(common) as progress:
            record = registry.add_axis(request, progress=progress, tell=common.note)
        # One that was there already has been told of.
        text = _describe_version(record) if record.created >= started else ""
        common.emit("add-axis", record.to_json(), text)


def _describe_version(record: "VersionRecord") -> str:
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
    if preview.template_options:
        facts["template options"] = ", ".join(
            f"{name}={value}" for name, value in preview.template_options.items()
        )
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
        each, between = plan.duration, plan.seconds_between or ()
        facts["time"] = (
            f"about {human_time(plan.seconds)}, between {' and '.join(map(human_time, between))} "
            f"(reference {human_time(each.reference)}, each pole {human_time(each.pole)}, its "
            f"report {human_time(each.scoring)}, answers at the end {human_time(each.behaviour)}), "
            "scaled from one short row"
        )
    lines = [sections(facts)]
    return "\n".join([*lines, "", plan.problem] if plan.problem else lines)


def _tokens(counts: "TokenCounts") -> str:
    return (
        f"{counts.prompt + counts.chosen + counts.rejected:,} ({counts.prompt:,} prompt, "
        f"{counts.chosen:,} chosen, {counts.rejected:,} rejected)"
    )


@command("sft")
@request_options(
    "SFTRequest",
    data={"metavar": "FILE"},
    from_config={"type": click.Path(path_type=Path, exists=True), "metavar": "CONFIG.json"},
    chat_template={"type": FILE},
)
def sft(common: Common, output: Path, **options: Any) -> None:
    """Fine-tune a raw model on instructions, as the base model of later axes.

    A row has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`.
    Only answers are learnt. The folder is a plain checkpoint with its record in prefreg.json, and
    the registry's last base, which `prefreg add-axis` takes.
    """

    registry = common.open_registry()
    with progress_bars(common) as progress:
        made = registry.sft(output, progress=progress, tell=common.note, **options)
    data = {"output": str(output), "base": made.identity.to_json(), "record": made.record}
    common.emit("sft", data, _describe_base(made, output))


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


@command("consistency")
@click.argument("name", metavar="NAME_OR_YAML", shell_complete=completing.AXES)
@request_options(
    "ConsistencyRequest",
    leave="axis",
    scratch={"type": click.Path(path_type=Path, dir_okay=False)},
)
@request_options(
    "AxisRequest",
    leave="name plus minus seed too_long note tags data_licence shard fresh watch answers guards",
    data={"metavar": "SOURCE_OR_FILE[:WEIGHT]"},
)
@PLOT
def consistency(common: Common, name: str, plot: Path | None, **options: Any) -> None:
    """Measure how much of a vector is the same for every seed.

    Versions of these seeds with the options given are taken from the registry; what is missing is
    trained into --scratch, where a later call finds it, and the registry stays as it is.
    """
    registry = common.open_registry()
    with progress_bars(common) as progress:
        found = registry.consistency(name, progress=progress, tell=common.note, **options)
    if plot is not None:
        from prefreg import api

        api.plot_consistency(found, plot)
    common.emit("consistency", found.to_json(), _describe_consistency(found), asked=True)


def _describe_consistency(found: "Consistency") -> str:
    drawn = {"same": "on the same pairs", "drawn": "each on pairs of its own"}[found.pairs]
    lines = [f"{found.axis} on {found.base}: {len(found.seeds)} seeds, {drawn}", ""]
    rows = _spread_rows(found)
    lines += [table(("", "VALUE", "LOW", "HIGH"), rows), ""]
    lines.append(f"LOW and HIGH: {found.interval}.")
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


def _spread_rows(found: "Consistency") -> list[tuple[str, ...]]:
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
