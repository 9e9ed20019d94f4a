"""A picture of a training: loss, margin and answers of both poles, step by step."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from prefreg.errors import VectorError
from prefreg.evaluation.plots import NEGATIVE, POSITIVE, Canvas, require_format
from prefreg.registry import VersionRecord

POLES = {"positive": ("θ₊", POSITIVE), "negative": ("θ₋", NEGATIVE)}

_PANELS = (
    ("loss", "Loss", "loss (nats)"),
    ("margin", "Margin", "reward margin, β · nats"),
)
_SHARES = {"repetition": "-", "unended": "--", "refusals": ":"}
_SMOOTHED_FROM = 30
"""Steps from which the single ones stand back behind their running mean."""

Curve = Sequence[Mapping[str, Any]]


def draw_poles(
    curves: Mapping[str, Curve],
    destination: Path,
    *,
    title: str,
    caption: str,
    heldout: Mapping[str, Curve],
    answers: Mapping[str, Curve],
    stops: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw the curves of `positive` and `negative`, or of one of them, and save the picture.

    `heldout` are their margins on held-out pairs, in the unit of the other margins; `answers`
    what they answered on the way, if they did; `stops` say at which `step` a pole was stopped, and
    the weights of which were `kept`. `caption` says what was trained and how; it is
    wrapped below the panels.
    """
    with Canvas(
        destination, title=title, caption=caption, columns=len(_PANELS), rows=2 if answers else 1,
        width=4.5, height=3.8, margin=0.8,
    ) as canvas:  # fmt: skip
        for panel, (figure_name, heading, unit) in zip(canvas.panels, _PANELS, strict=False):
            for pole, curve in curves.items():
                label, colour = POLES[pole]
                _draw(panel, curve, figure_name, f"{label} ({pole} pole)", colour)
                if figure_name == "margin" and (points := heldout.get(pole)):
                    _draw_heldout(panel, points, f"{label}, held out", colour)
            if any(point["margin"] is not None for curve in curves.values() for point in curve):
                # Where no preference is learnt yet: the loss is log 2, the margin 0.
                start = 0.6931 if figure_name == "loss" else 0.0
                panel.axhline(start, color="#999999", linewidth=0.8, linestyle=":")
            for pole, stop in stops.items():
                _mark_stop(panel, pole, stop)
            _finish(panel, heading, unit)
        if answers:
            _draw_answers(canvas.panels[len(_PANELS) :], answers)


def _mark_stop(panel: Axes, pole: str, stop: Mapping[str, Any]) -> None:
    label, colour = POLES[pole]
    steps = {"stopped at": (stop["step"], ":"), "kept as of": (stop["kept"], "-")}
    for what, (step, line) in steps.items():
        panel.axvline(
            step, color=colour, linewidth=1.2, linestyle=line, label=f"{label} {what} step {step}"
        )


def _finish(panel: Any, heading: str, unit: str) -> None:
    panel.set_title(heading, fontsize=10)
    panel.set_xlabel("optimiser step")
    panel.set_ylabel(unit)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.xaxis.get_major_locator().set_params(integer=True)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8, framealpha=0.9)


def _draw_answers(panels: Sequence[Axes], answers: Mapping[str, Curve]) -> None:
    """Draw the length of the answers, and the shares that a collapse raises; step 0 is the base."""
    length, shares = panels
    for pole, samples in answers.items():
        label, colour = POLES[pole]
        steps = [sample["step"] for sample in samples]
        found = [sample["length"] for sample in samples]
        length.plot(steps, found, color=colour, marker="D", markersize=4, label=label)
        for name, line in _SHARES.items():
            # A share that was not taken is a gap.
            values = [math.nan if (v := sample[name]) is None else v for sample in samples]
            if not all(map(math.isnan, values)):
                what = "refusals of benign prompts" if name == "refusals" else name
                shares.plot(steps, values, line, color=colour, label=f"{label}, {what}")
    length.set_ylim(
        0, 1.1 * max(point["length"] for samples in answers.values() for point in samples)
    )
    shares.set_ylim(-0.03, 1.03)
    _finish(length, "Answers: length", "tokens")
    _finish(shares, "Answers: what falls apart", "share")


def _draw(panel: Axes, curve: Curve, name: str, label: str, colour: str) -> None:
    # The margin is not known of steps that read only the chosen answers.
    known = [point for point in curve if point[name] is not None]
    if not known:
        return
    steps = [point["step"] for point in known]
    values = [point[name] for point in known]
    if len(steps) < _SMOOTHED_FROM:
        panel.plot(steps, values, color=colour, marker="o", markersize=3, label=label)
        return
    panel.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    panel.plot(steps, _running_mean(values), color=colour, linewidth=1.6, label=label)


def _draw_heldout(panel: Axes, points: Curve, label: str, colour: str) -> None:
    steps = [point["step"] for point in points]
    values = [point["margin"] for point in points]
    panel.plot(
        steps,
        values,
        color=colour,
        marker="D",
        markersize=4,
        linestyle="--",
        linewidth=1,
        label=label,
    )


def _running_mean(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, a twentieth of the run to either side."""
    width = max(1, len(values) // 40)
    means = []
    for index in range(len(values)):
        near = values[max(0, index - width) : index + width + 1]
        means.append(sum(near) / len(near))
    return means


def plot_version(record: VersionRecord, destination: Path) -> None:
    """Draw the curves that a version has kept."""
    require_format(destination)
    poles = record.metadata.get("poles") or {}
    curves = {name: poles[name]["curve"] for name in POLES if poles.get(name, {}).get("curve")}
    if not curves:
        raise VectorError(
            f"{record} has no training curves: it was not trained by `prefreg add-axis`."
        )
    draw_poles(
        curves,
        destination,
        title=f"{record}: training of its poles",
        caption=_caption(record),
        heldout={name: _heldout(record, poles[name]) for name in curves},
        answers={name: found for name in curves if (found := poles[name].get("answers"))},
        stops={name: stop for name in curves if (stop := poles[name].get("stopped"))},
    )


def _heldout(record: VersionRecord, pole: dict[str, Any]) -> list[dict[str, float]]:
    """Return the checks on the way and the report at the end, as reward margins."""
    settings = record.metadata.get("training", {}).get("settings", {})
    beta = float(settings.get("beta", 0.1))
    checks = [(check["step"], check["margin"]) for check in pole.get("checks", ())]
    report = pole.get("report", {})
    if report.get("split") == "heldout" and "stopped" not in pole:
        checks.append((pole["curve"][-1]["step"], report["mean_margin"]))
    return [{"step": step, "margin": beta * margin} for step, margin in checks]


def _caption(record: VersionRecord) -> str:
    training: dict[str, Any] = record.metadata.get("training", {})
    data: dict[str, Any] = record.metadata.get("data", {})
    settings: dict[str, Any] = training.get("settings", {})
    batch = settings.get("per_device_train_batch_size", 1) * settings.get(
        "gradient_accumulation_steps", 1
    )
    facts = [
        f"axis {record.axis} on {record.base.name} ({record.base.parameters:,} parameters)",
        f"data {data.get('origin')} ({data.get('audit', {}).get('train')} pairs)",
        f"{batch} pairs a step",
        f"learning rate {settings.get('learning_rate'):g}",
        f"β {settings.get('beta'):g}",
        f"max length {settings.get('max_length')}",
        f"seed {training.get('seed')}",
    ]
    if lora := training.get("lora"):
        facts.append(f"LoRA of rank {lora['rank']}")
    return " · ".join(facts)
