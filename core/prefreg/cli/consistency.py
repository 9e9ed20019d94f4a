"""How much of a vector every seed finds again."""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.add_axis import add_axis
from prefreg.cli.options import PLOT, Common, command, table
from prefreg.cli.progress import StageProgress, stage_progress

if TYPE_CHECKING:
    from prefreg.evaluation.statistics.jackknife import Spread
    from prefreg.flows.consistency import Consistency

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
    from prefreg.flows.axis_request import AxisRequest
    from prefreg.flows.seed_runs import ConsistencyRequest

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
    with ExitStack() as stack:

        def progress(prefix: str) -> StageProgress | None:
            stack.close()  # the bars of the run before
            return stack.enter_context(stage_progress(common, prefix))

        found = common.open_registry().consistency(request, progress=progress, note=common.note)
    if plot is not None:
        _draw(found, plot)
    common.emit("consistency", found.as_dict(), _describe(found), asked=True)


# How an axis is trained is said as for `add-axis`.
consistency.params[2:2] = [each for each in add_axis.params if each.name in _TRAINING]


def _draw(found: "Consistency", plot: Path) -> None:
    from prefreg.evaluation.consistency_plot import draw_consistency

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


def _describe(found: "Consistency") -> str:
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


COMMANDS = (consistency,)
