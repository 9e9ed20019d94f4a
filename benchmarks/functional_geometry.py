"""How far the functional geometry near the base tells what larger coefficients do.

For settings of three dials of the bundled model, drawn at random on spheres of five radii: the KL
that G predicts beside the measured one, and the margins that the central differences predict beside
the measured ones. What counts as trusted and as predicted was fixed before anything was measured:

- a setting is trusted where measured and predicted KL are within 1.5 times of each other, which
  needs no label (`TRUSTED`);
- its margins are predicted where the error of all three together is at most a quarter of them;
- the flag is useful where at least 80 % of the trusted settings are predicted, and the share among
  the others is at least 30 points lower.

Usage: python benchmarks/functional_geometry.py [--prompts 200] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np

from prefreg.evaluation.dial_effects import TRUSTED, find_geometry, measure_leakage
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.registry import Access
from prefreg.terms import Term

DIALS = ("harmless", "helpful", "verbosity")
RADII = (0.25, 0.5, 1.0, 2.0, 3.0)
DIRECTIONS = 4
PREDICTED, USEFUL, BETTER = 0.25, 0.8, 0.3


def main() -> None:
    """Measure every setting and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    request = EvaluationRequest(prompts=arguments.prompts)
    evaluator = open_dials(Access("registry.db"), [Term(axis, 1.0) for axis in DIALS], request)
    geometry = find_geometry(evaluator)
    slopes = measure_leakage(evaluator, "margin").matrix
    base = margins(evaluator, [0.0] * len(DIALS))
    rows = []
    for eta in settings():
        nats = np.mean(evaluator.answers(evaluator.at(eta)).nats)
        ratio = float(nats / geometry.predict(eta))
        change = np.array(
            [
                float((after - before).mean() / before.std(ddof=1))
                for after, before in zip(margins(evaluator, eta), base, strict=True)
            ]
        )
        error = float(np.linalg.norm(slopes @ eta - change) / np.linalg.norm(change))
        rows.append(
            {
                "eta": [round(value, 3) for value in eta],
                "radius": round(float(np.linalg.norm(eta)), 3),
                "predicted_kl": geometry.predict(eta),
                "measured_kl": float(nats),
                "ratio": ratio,
                "trusted": TRUSTED[0] <= ratio <= TRUSTED[1],
                "error": error,
                "predicted": error <= PREDICTED,
            }
        )
        print(describe(rows[-1]), flush=True)
    summary = summarise(rows)
    print("\n".join(summary))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


def settings() -> list[list[float]]:
    """Draw the same directions at every radius."""
    directions = np.random.default_rng(0).normal(size=(DIRECTIONS, len(DIALS)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return [list(map(float, radius * each)) for radius in RADII for each in directions]


def margins(evaluator: Evaluator, eta: list[float]) -> list[np.ndarray]:
    """Return the margin of every held-out pair of each axis."""
    return [evaluator.margins(evaluator.at(eta), axis) for axis in DIALS]


def describe(row: dict) -> str:
    """Write a setting as a row of the table."""
    eta = ", ".join(f"{value:+.2f}" for value in row["eta"])
    return (
        f"| {row['radius']:g} | {eta} | {row['predicted_kl']:.3f} | {row['measured_kl']:.3f} | "
        f"{row['ratio']:.2f} | {'yes' if row['trusted'] else 'no'} | {row['error']:.2f} |"
    )


def summarise(rows: list[dict]) -> list[str]:
    """Hold the flag against the thresholds."""
    trusted = [row["predicted"] for row in rows if row["trusted"]]
    others = [row["predicted"] for row in rows if not row["trusted"]]
    shares = [float(np.mean(part)) if part else float("nan") for part in (trusted, others)]
    useful = shares[0] >= USEFUL and (not others or shares[0] - shares[1] >= BETTER)
    rank = np.corrcoef(*(np.argsort(np.argsort(column)) for column in _columns(rows)))[0, 1]
    return [
        f"margins predicted at {sum(trusted)} of {len(trusted)} trusted settings, at "
        f"{sum(others)} of {len(others)} others; the flag is {'' if useful else 'not '}useful",
        f"rank correlation of |log(measured KL / predicted)| with the error of margins: {rank:.2f}",
    ]


def _columns(rows: list[dict]) -> tuple[list[float], list[float]]:
    return [abs(np.log(row["ratio"])) for row in rows], [row["error"] for row in rows]


if __name__ == "__main__":
    main()
