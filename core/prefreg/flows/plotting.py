"""Draw how the poles of a stored version were trained."""

from pathlib import Path
from typing import Any

from prefreg.errors import OutputError, VectorError
from prefreg.evaluation.pole_curves import POLES, draw_poles
from prefreg.registry import VersionRecord

FORMATS = (".png", ".pdf", ".svg")


def plot_version(record: VersionRecord, destination: Path) -> None:
    """Draw the curves that a version has kept.

    Raises:
        VectorError: It has none, as it was imported or compressed.
        OutputError: The file cannot be written, or has no ending of a picture.
    """
    if destination.suffix not in FORMATS:
        raise OutputError(
            f"{destination} is no name of a picture: end it with {', '.join(FORMATS)}."
        )
    poles = record.metadata.get("poles") or {}
    curves = {name: poles[name]["curve"] for name in POLES if poles.get(name, {}).get("curve")}
    if not curves:
        raise VectorError(
            f"{record} has no training curves: it was not trained by `prefreg add-axis`."
        )
    try:
        draw_poles(
            curves,
            destination,
            title=f"{record}: training of its poles",
            caption=_caption(record),
            heldout={name: _heldout(record, poles[name]) for name in curves},
            answers={name: found for name in curves if (found := poles[name].get("answers"))},
        )
    except OSError as error:
        raise OutputError(f"{destination} cannot be written: {error.strerror}.") from error


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
