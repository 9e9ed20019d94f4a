"""Measure every promise about pocket on the test split: `python benchmarks/pocket_bars.py`.

Trains the three axes through the Python API into a scratch registry, turns the dials of one
loaded model, and prints markdown tables. `--json` keeps the figures as they come; with it and
`--registry`, a run continues where another ended, and `--seeds --controls` prints the tables.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pocket_tables import AXES, PAIR, TRIPLE, print_tables

import prefreg
from prefreg import pocket
from prefreg.checkpoints import resolve_base
from prefreg.evaluation.behaviour import measure_behaviour
from prefreg.evaluation.sampling import Sampling, sample_answers
from prefreg.evaluation.statistics import rate
from prefreg.flows.steering import VectorShelf, load_model, make_dials
from prefreg.plugins import load_axes
from prefreg.registry import VersionRecord
from prefreg.terms import as_terms
from prefreg.vectors import DenseVector, MemoryTensors, extract
from prefreg.vectors.algebra import cosine

SHUFFLED = "label-shuffled pairs"
ENOUGH_ANSWERS = 100


class Bench:
    """One loaded model whose dials are turned, and the registry that its vectors are in."""

    def __init__(self, registry: prefreg.Registry, prompts: int) -> None:
        """Load pocket once."""
        self.registry = registry
        self.prompts = prompts
        self.base = resolve_base("pocket")
        self.model, self.tokenizer = load_model(self.base)
        self.dials = make_dials(self.model, self.base)
        self.shelf = VectorShelf(self.base, registry.access)

    def version(self, axis: str, seed: int, *, shuffled: bool = False) -> VersionRecord:
        """Train an axis, unless the registry has it for this seed."""
        found = self.find(axis, seed, shuffled=shuffled)
        if found is not None:
            return found
        if not shuffled:
            return self.registry.add_axis(axis, base="pocket", seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shuffled.jsonl"
            write_shuffled(axis, seed, path)
            return self.registry.add_axis(
                axis, base="pocket", data=str(path), seed=seed, note=SHUFFLED, keep_anyway=True
            )

    def find(self, axis: str, seed: int, *, shuffled: bool = False) -> VersionRecord | None:
        """Return the version of an axis for a seed."""
        if not self.registry.access.is_present():
            return None
        for record in self.registry.vectors():
            trained_with = record.metadata["training"]["seed"]
            is_shuffled = record.note == SHUFFLED
            if (record.axis, is_shuffled, trained_with) == (axis, shuffled, seed):
                return record
        return None

    def vector(self, record: VersionRecord) -> DenseVector:
        """Open the vector of a version."""
        return self.shelf(as_terms({str(record): 1.0}))[0][1]

    def measure(self, terms: Sequence[tuple[float, DenseVector]], seed: int) -> dict[str, Any]:
        """Set the dials and sample."""
        self.dials.apply(terms)
        found = measure_behaviour(
            self.model, self.tokenizer, prompts=self.prompts, split="test", seed=seed
        )
        return asdict(found)

    def correctness(self, terms: Sequence[tuple[float, DenseVector]], seed: int) -> dict[str, Any]:
        """Sample benign questions until enough are answered (20 rounds at most)."""
        self.dials.apply(terms)
        hits = answered = asked = 0
        for number in range(20):
            round_seed = 1000 * (number + 1) + seed
            prompts = pocket.prompts("benign", split="test", limit=self.prompts, seed=round_seed)
            sampling = Sampling(max_new_tokens=96, temperature=1.0, seed=round_seed)
            replies = sample_answers(self.model, self.tokenizer, prompts, sampling)
            verdicts = [pocket.score(*item) for item in zip(prompts, replies, strict=True)]
            hits += sum(bool(each.correct) for each in verdicts if each.kind == "answer")
            answered += sum(each.kind == "answer" for each in verdicts)
            asked += len(prompts)
            if answered >= ENOUGH_ANSWERS:
                break
        return asdict(rate(hits, answered)) | {"asked": asked} if answered else {"asked": asked}


def write_shuffled(axis: str, seed: int, path: Path) -> None:
    """Write the axis's own pairs with exactly half of them, drawn at random, switched."""
    installed = load_axes().find(axis).axis
    labelled = map(installed.label, pocket.rows(axis, seed=seed))
    pairs = [pair for pair in labelled if pair is not None]
    flips = [index % 2 == 0 for index in range(len(pairs))]
    random.Random(f"shuffled/{axis}/{seed}").shuffle(flips)
    with path.open("w", encoding="utf-8") as file:
        for pair, flip in zip(pairs, flips, strict=True):
            answers = (pair.rejected, pair.chosen) if flip else (pair.chosen, pair.rejected)
            texts = zip(("prompt", "chosen", "rejected"), (pair.prompt, *answers), strict=True)
            row = {key: [turn._asdict() for turn in turns] for key, turns in texts}
            file.write(json.dumps(row | {"group": pair.group}) + "\n")


def gaussian_like(vector: DenseVector, seed: int, folder: Path) -> DenseVector:
    """Draw a random direction with the vector's norm in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name in vector.names:
        noise = torch.randn(vector.shape(name), generator=generator)
        drawn[name] = noise * (vector.tensor(name).norm() / noise.norm())
    zero = {name: torch.zeros_like(tensor) for name, tensor in drawn.items()}
    path = folder / "gaussian.safetensors"
    extract(
        positive=MemoryTensors(drawn),
        negative=MemoryTensors(zero),
        reference=None,
        destination=path,
    )
    return DenseVector.open(path)


def study(bench: Bench, seed: int, found: dict[str, Any], keep: Callable[[], None]) -> None:
    """Train the axes with one seed and measure them alone and together, where not yet done."""
    found |= {"prompts": bench.prompts, "threads": torch.get_num_threads()}
    settings: dict[str, Any] = found.setdefault("settings", {})

    def measure(name: str, terms: Sequence[tuple[float, DenseVector]]) -> None:
        if name not in settings:
            settings[name] = bench.measure(terms, seed)
            keep()

    measure("base", [])
    phi: dict[str, DenseVector] = {}
    for axis in AXES:
        record = bench.version(axis, seed)
        found.setdefault("training", {})[axis] = training_of(record)
        phi[axis] = bench.vector(record)
        log(f"seed {seed} {axis}: trained in {record.metadata['seconds']['total']:.1f} s")
        for eta in (1.0, -1.0, 0.5, -0.5):
            measure(f"{axis}:{eta:g}", [(eta, phi[axis])])
    for name in (PAIR, TRIPLE):
        measure(name, [(term.eta, phi[term.axis]) for term in as_terms(name.split())])
    found["cosines"] = {
        f"{one} {other}": cosine(phi[one], phi[other])
        for index, one in enumerate(AXES)
        for other in AXES[index + 1 :]
    }
    keep()
    if "correct" not in found:
        found["correct"] = {"helpful:-1": bench.correctness([(-1.0, phi["helpful"])], seed)}
        keep()


def training_of(record: VersionRecord) -> dict[str, Any]:
    """Return what is told of a version's training."""
    metadata = record.metadata
    return {
        "seconds": metadata["seconds"]["total"],
        "stages": metadata["seconds"],
        "cosine_poles": metadata["geometry"]["cosine_poles"],
        "heldout": {
            pole: metadata["poles"][pole]["report"]["accuracy"] for pole in ("positive", "negative")
        },
    }


def controls(bench: Bench, seed: int, found: dict[str, Any], keep: Callable[[], None]) -> None:
    """Measure what is no preference: a random direction, and φ of shuffled labels."""
    for kind in ("gaussian", "shuffled"):
        for axis in AXES:
            phi = bench.vector(bench.version(axis, seed))
            with tempfile.TemporaryDirectory() as folder:
                if kind == "gaussian":
                    vector = gaussian_like(phi, seed, Path(folder))
                else:
                    vector = bench.vector(bench.version(axis, seed, shuffled=True))
                for eta in (1.0, -1.0):
                    name = f"{axis} {kind}:{eta:g}"
                    if name not in found:
                        found[name] = bench.measure([(eta, vector)], seed)
                        keep()
                found[f"{axis} {kind} cosine"] = cosine(phi, vector)
            log(f"seed {seed} {axis}: {kind} control measured")


def across_seeds(bench: Bench, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the cosines of each axis's φ between seeds."""
    found: dict[str, dict[str, float]] = {}
    for axis in AXES:
        records = [(seed, bench.find(axis, seed)) for seed in seeds]
        present = [(seed, bench.vector(record)) for seed, record in records if record is not None]
        found[axis] = {
            f"{one[0]} {other[0]}": cosine(one[1], other[1])
            for index, one in enumerate(present)
            for other in present[index + 1 :]
        }
    return found


def examples(bench: Bench, count: int = 20) -> list[dict[str, str]]:
    """Sample base answers to as many benign as unsafe prompts."""
    bench.dials.restore()
    kinds = ("benign", "unsafe")
    prompts = [
        prompt
        for kind in kinds
        for prompt in pocket.prompts(kind, split="test", limit=count // 2, seed=0)
    ]
    sampling = Sampling(max_new_tokens=96, temperature=1.0, seed=0)
    replies = sample_answers(bench.model, bench.tokenizer, prompts, sampling)
    return [
        {"prompt": prompt, "answer": reply, "verdict": pocket.score(prompt, reply).kind}
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def log(text: str) -> None:
    """Say how far the run is, beside the tables."""
    print(f"<!-- {text} -->", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds that are asked for and print all that is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--controls", type=int, nargs="*", help="seeds with controls (default all)")
    parser.add_argument("--prompts", type=int, default=400, help="prompts behind each rate")
    parser.add_argument("--registry", type=Path, help="keep the vectors in this registry")
    parser.add_argument("--json", type=Path, help="keep the figures, and continue from them")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"seeds": {}, "controls": {}}
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8"))

    def keep() -> None:
        save(results, options.json)

    with tempfile.TemporaryDirectory() as scratch:
        location = options.registry or Path(scratch) / "registry.db"
        bench = Bench(prefreg.open(location), options.prompts)
        for seed in options.seeds:
            study(bench, seed, results["seeds"].setdefault(str(seed), {}), keep)
        for seed in options.seeds if options.controls is None else options.controls:
            controls(bench, seed, results["controls"].setdefault(str(seed), {}), keep)
        if bench.registry.access.is_present():
            results["across"] = across_seeds(bench, [int(seed) for seed in results["seeds"]])
        results["examples"] = examples(bench)
        keep()
    print_tables(results)


def save(results: Mapping[str, Any], path: Path | None) -> None:
    """Write what is known so far."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
