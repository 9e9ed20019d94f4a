"""Measure every promise about pocket: `python tools/pocket/experiment.py --split dev --seeds 0`."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sampling import sample
from simulation import (
    Base,
    Recipe,
    Vector,
    cosine,
    gaussian_like,
    mix,
    open_base,
    pairs_of,
    train_poles,
)

from prefreg import pocket

AXES = ("helpful", "harmless", "verbosity")
ETAS = (-1.0, -0.5, 0.5, 1.0)
Rates = dict[str, float]


def rates(base: Base, delta: Vector, *, split: str, count: int, seed: int) -> Rates:
    """Sample answers to benign and unsafe prompts and score them."""
    base.load(delta)
    found: dict[str, list[pocket.Verdict]] = {}
    for kind in ("benign", "unsafe"):
        asked = pocket.prompts(kind, split=split, limit=count, seed=seed)
        answers = sample(base.model, base.tokenizer, asked, seed=seed)
        found[kind] = [pocket.score(a, b) for a, b in zip(asked, answers, strict=True)]

    def share(kind: str, verdict: str) -> float:
        return sum(each.kind == verdict for each in found[kind]) / count

    answered = [each.correct for each in found["benign"] if each.kind == "answer"]
    return {
        "answers": share("benign", "answer"),
        "refuses_benign": share("benign", "refusal"),
        "refuses_unsafe": share("unsafe", "refusal"),
        "complies": share("unsafe", "answer"),
        "correct": sum(map(bool, answered)) / max(1, len(answered)),
        "answered": float(len(answered)),
        "words": sum(each.words for each in found["benign"]) / count,
        "malformed": share("benign", "malformed"),
        "malformed_unsafe": share("unsafe", "malformed"),
    }


def show(name: str, found: Rates) -> None:
    """Print one line of the table."""
    columns = "  ".join(f"{key} {value:6.3f}" for key, value in found.items() if key != "answered")
    print(f"{name:24s} {columns}", flush=True)


def study(
    base: Base, recipes: Mapping[str, Recipe], *, split: str, count: int, seed: int, controls: bool
) -> dict[str, object]:
    """Train every axis with one seed and measure it at every eta, alone and together."""
    table: dict[str, object] = {}

    def measure(name: str, delta: Vector) -> None:
        # Where hardly anything is answered, it takes more prompts to see whether it is right.
        asked = 2 * count if name == "helpful:-1.0" else count
        found = rates(base, delta, split=split, count=asked, seed=seed)
        table[name] = found
        show(name, found)

    measure("base", {})
    phi: dict[str, Vector] = {}
    for axis in recipes:
        started = time.monotonic()
        pairs = pairs_of(axis, seed, base)
        positive, negative = train_poles(base, pairs, recipes[axis], seed=seed)
        seconds = time.monotonic() - started
        phi[axis] = mix((1.0, positive), (-1.0, negative))
        table[f"{axis}/train"] = {"seconds": seconds, "cosine": cosine(positive, negative)}
        print(f"{axis}: {seconds:.1f} s, cos {cosine(positive, negative):.3f}", flush=True)
        for eta in ETAS:
            measure(f"{axis}:{eta:+}", mix((eta, phi[axis])))
        if controls:
            null = train_poles(
                base, pairs_of(axis, seed, base, shuffled=True), recipes[axis], seed=seed
            )
            shuffled = mix((1.0, null[0]), (-1.0, null[1]))
            random = gaussian_like(phi[axis], seed)
            for eta in (-1.0, 1.0):
                measure(f"{axis} shuffled:{eta:+}", mix((eta, shuffled)))
                measure(f"{axis} gaussian:{eta:+}", mix((eta, random)))
    if {"helpful", "harmless"} <= phi.keys():
        measure("helpful+harmless", mix((1.0, phi["helpful"]), (1.0, phi["harmless"])))
    if len(phi) == len(AXES):
        measure("all three", mix(*((1.0, phi[axis]) for axis in AXES)))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study for some seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=pocket.model_dir())
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="recipe overrides, key=number")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    base = open_base(options.model)
    recipe = {
        key: float(value)
        for key, value in pocket.TRAINING.items()
        if isinstance(value, int | float)
    }
    recipe |= {key: float(value) for key, value in (item.split("=") for item in options.set)}
    results = {}
    for seed in options.seeds:
        print(f"seed {seed}, {options.split}", flush=True)
        results[seed] = study(
            base,
            dict.fromkeys(options.axes, recipe),
            split=options.split,
            count=options.count,
            seed=seed,
            controls=options.controls,
        )
        if options.output:
            options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
