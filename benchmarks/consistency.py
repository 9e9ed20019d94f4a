"""How much of a vector does every seed find again? `python benchmarks/consistency.py --output OUT`.

Runs `Registry.consistency` for each axis and writes `OUT/AXIS.json`, `OUT/AXIS.png` and, of all,
`OUT/results.md`. What has been trained lies in `OUT/seeds.db`, so a run goes on where it stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import prefreg
from prefreg.evaluation.consistency import Consistency
from prefreg.evaluation.plots import draw_consistency
from prefreg.evaluation.statistics import Spread


def show(spread: Spread | None, digits: int = 3) -> str:
    """Write a figure with its interval, or its range."""
    if spread is None:
        return "-"
    low, high = f"{spread.low:.{digits}f}", f"{spread.high:.{digits}f}"
    return f"{spread.value:.{digits}f} [{low}, {high}]"


def mean(values: Sequence[float] | None) -> str:
    """Write a mean with the values behind it."""
    if not values:
        return "-"
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"{sum(values) / len(values):.3f} ({each})"


def table(found: Sequence[Consistency]) -> str:
    """Write a column for every axis."""
    lines = [
        "| | " + " | ".join(each.axis for each in found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    names = {name: None for each in found for name in each.layers}
    rows = {
        "seeds": [str(len(each.seeds)) for each in found],
        "signal ‖μ‖²": [show(each.vectors.signal, 4) for each in found],
        "noise": [show(each.vectors.noise, 4) for each in found],
        "share of signal": [show(each.vectors.share) for each in found],
        "cosine of two seeds": [show(each.vectors.cosine) for each in found],
        "share in the mean of all seeds": [f"{each.vectors.averaged:.3f}" for each in found],
        **{f"cosine, {name}": [show(each.layers.get(name)) for each in found] for name in names},
        "differential share of the poles' energy": [
            show(each.energy and each.energy.share, 4) for each in found
        ],
        "correlation of effects over pairs": [show(each.effects.correlation) for each in found],
        "held-out pairs": [str(each.effects.pairs) for each in found],
        "margin at η = 1, nats": [mean(each.effects.margins) for each in found],
        "halves: cosine": [mean(each.halves and each.halves.cosines) for each in found],
        "halves: of whole sets": [
            f"{each.halves.corrected:.3f}" if each.halves else "-" for each in found
        ],
        "shuffled labels: ‖φ‖² over the seeds'": [
            mean(each.null and each.null.power) for each in found
        ],
        "shuffled labels: cosine with the seeds' mean": [
            mean(each.null and each.null.cosines) for each in found
        ],
        "shuffled labels: effect over the seeds'": [
            mean(each.null and each.null.effects) for each in found
        ],
    }
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every axis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--axes", default="helpful,verbosity", metavar="NAME,...")
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--seeds", type=int, default=8, help="how many")
    parser.add_argument("--halves", type=int, default=2)
    parser.add_argument("--null", type=int, default=2)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    registry = prefreg.open(options.output / "none.db")  # nothing is taken from elsewhere
    found = []
    for axis in options.axes.split(","):
        one = registry.consistency(
            axis,
            range(options.seeds),
            base=options.base,
            halves=options.halves,
            null=options.null,
            scratch=options.output / "seeds.db",
        )
        document = json.dumps(one.to_json(), indent=1)
        (options.output / f"{axis}.json").write_text(document + "\n", "utf-8")
        draw_consistency(
            options.output / f"{axis}.png",
            title=f"{axis} on {one.base}: {len(one.seeds)} seeds",
            caption=f"share of signal {one.vectors.share}",
            seeds=one.seeds,
            cosines=one.cosines,
            layers=one.layers,
        )
        found.append(one)
        (options.output / "results.md").write_text(table(found), "utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
