"""Measure every promise about a pocket base: `python benchmarks/pocket_bars.py --json FILE`.

Trains the axes through the Python API into a registry, turns the dials of one loaded model, and
keeps the figures; a run continues where another ended. `pocket_tables.py FILE…` prints them.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pocket_tables import AXES, PAIR, TRIPLE

import prefreg
from prefreg import PreferencePair, pocket
from prefreg.axes.axis import plain_text
from prefreg.axes.plugins import load_axes
from prefreg.checkpoints import resolve_base
from prefreg.composition.in_memory import VectorShelf, make_dials
from prefreg.evaluation.demonstration import measure_behaviour
from prefreg.evaluation.statistics import rate
from prefreg.models.generation import sample_answers
from prefreg.models.loading import load_model, load_tokenizer
from prefreg.models.sampling import Sampling
from prefreg.registry import VersionRecord
from prefreg.terms import as_terms
from prefreg.vectors import open_vector
from prefreg.vectors.algebra import cosine
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.extraction import extract
from prefreg.vectors.tensors import MemoryTensors

SHUFFLED = "labels switched at random, one of every two like pairs"
ENOUGH_ANSWERS = 100


class Bench:
    """One loaded model whose dials are turned, and the registry that its vectors are in."""

    def __init__(
        self,
        registry: prefreg.Registry,
        base: str,
        *,
        prompts: int,
        split: str,
        settings: Sequence[str] = (),
    ) -> None:
        """Load the base once."""
        self.registry = registry
        self.settings = tuple(settings)
        self.prompts = prompts
        self.split = split
        self.name = base
        self.base = resolve_base(base)
        self.model = load_model(self.base, "auto")
        self.tokenizer = load_tokenizer(self.base)
        self.dials = make_dials(self.model, self.base)
        self.shelf = VectorShelf(self.base, registry.access)

    def version(self, axis: str, seed: int, *, shuffled: int | None = None) -> VersionRecord:
        """Train an axis, unless the registry has it; `shuffled` counts the draws of its labels."""
        found = self.find(axis, seed, shuffled=shuffled)
        if found is not None:
            return found
        # Only the bundled folder brings these settings by itself.
        own = tuple(f"{key}={value}" for key, value in pocket.TRAINING.items())
        options: dict[str, Any] = {"base": self.name, "seed": seed}
        own = tuple(item for item in own if not item.startswith("max_length="))
        for item in self.settings:  # of two that are given, the later one counts
            chosen, colon, setting = item.rpartition(":")
            own += (setting,) if not colon or chosen == axis else ()
        options["settings"] = own
        options["max_length"] = pocket.TRAINING["max_length"]
        if shuffled is None:
            return self.registry.add_axis(axis, data="pocket", **options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shuffled.jsonl"
            write_shuffled(axis, seed, path, shuffled)
            note = note_of(shuffled)
            return self.registry.add_axis(
                axis, data=str(path), note=note, keep_anyway=True, **options
            )

    def find(self, axis: str, seed: int, *, shuffled: int | None = None) -> VersionRecord | None:
        """Return the version of an axis for a seed."""
        if not self.registry.access.is_present():
            return None
        for record in self.registry.vectors():
            trained_with = record.metadata["training"]["seed"]
            if (record.axis, record.note, trained_with) == (axis, note_of(shuffled), seed):
                return record
        return None

    def vector(self, record: VersionRecord) -> DenseVector:
        """Open the vector of a version."""
        return self.shelf(as_terms({str(record): 1.0}))[0][1]

    def measure(self, terms: Sequence[tuple[float, DenseVector]], seed: int) -> dict[str, Any]:
        """Set the dials and sample."""
        self.dials.apply(terms)
        found = measure_behaviour(
            self.model,
            self.tokenizer,
            pocket.PocketWorld(),
            prompts=self.prompts,
            split=self.split,
            seed=seed,
        )
        return {name: None if value is None else asdict(value) for name, value in found.items()}

    def correctness(self, terms: Sequence[tuple[float, DenseVector]], seed: int) -> dict[str, Any]:
        """Sample benign questions until enough are answered (20 rounds at most)."""
        self.dials.apply(terms)
        hits = answered = asked = 0
        for number in range(20):
            round_seed = 1000 * (number + 1) + seed
            prompts = pocket.prompts(
                "benign", split=self.split, limit=self.prompts, seed=round_seed
            )
            sampling = Sampling(max_new_tokens=96, temperature=1.0, seed=round_seed)
            replies = sample_answers(self.model, self.tokenizer, prompts, sampling)
            verdicts = [pocket.score(*item) for item in zip(prompts, replies, strict=True)]
            hits += sum(bool(each.correct) for each in verdicts if each.kind == "answer")
            answered += sum(each.kind == "answer" for each in verdicts)
            asked += len(prompts)
            if answered >= ENOUGH_ANSWERS:
                break
        return asdict(rate(hits, answered)) | {"asked": asked} if answered else {"asked": asked}


def note_of(shuffled: int | None) -> str | None:
    """Return what the registry notes of a version."""
    return f"{SHUFFLED} (draw {shuffled})" if shuffled else None if shuffled is None else SHUFFLED


def write_shuffled(axis: str, seed: int, path: Path, number: int = 0) -> None:
    """Write the axis's own pairs, of every two that are alike one switched, drawn at random.

    Adam moves by the sign of the gradient rather than by its size, so an imbalance that chance
    leaves would be learnt nearly as fast as a preference. Pairs that the scorer sees alike stand
    next to each other before the draw, so none is left that it could tell.
    """
    installed = load_axes().find(axis).axis
    labelled = map(installed.label, pocket.rows(axis, seed=seed))
    pairs = [pair for pair in labelled if pair is not None]
    draw = random.Random(f"shuffled/{axis}/{seed}" + (f"/{number}" if number else ""))
    order = sorted(range(len(pairs)), key=lambda index: (likeness(pairs[index]), draw.random()))
    flipped = {draw.choice(order[place : place + 2]) for place in range(0, len(order), 2)}
    with path.open("w", encoding="utf-8") as file:
        for index, pair in enumerate(pairs):
            row = (pair.switched() if index in flipped else pair).to_row()
            file.write(json.dumps(row) + "\n")


def likeness(pair: PreferencePair) -> tuple[object, ...]:
    """Return what the scorer sees of both answers, and by how many words they differ."""
    prompt = plain_text(pair.prompt)
    verdicts = [pocket.score(prompt, plain_text(each)) for each in (pair.chosen, pair.rejected)]
    seen = [
        (each.kind, each.admits, each.tone, each.commands > each.suggestions) for each in verdicts
    ]
    return (*seen, verdicts[0].words - verdicts[1].words)


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


def controls(
    bench: Bench,
    seed: int,
    found: dict[str, Any],
    keep: Callable[[], None],
    foreign: prefreg.Registry | None,
) -> None:
    """Measure what is no preference of this base.

    A random direction, φ of shuffled labels, and φ that was trained on another base.
    """
    for axis in AXES:
        phi = bench.vector(bench.version(axis, seed))
        with tempfile.TemporaryDirectory() as folder:
            nulls: dict[str, Callable[[], DenseVector]] = {
                "gaussian": partial(gaussian_like, phi, seed, Path(folder)),
                "shuffled": partial(shuffled_vector, bench, axis, seed),
            }
            if foreign is not None:
                nulls["foreign"] = partial(first_vector, foreign, axis)
            for kind, make in nulls.items():
                names = {f"{axis} {kind}:{eta:g}": eta for eta in (1.0, -1.0)}
                if found.keys() >= names.keys():
                    continue
                vector = make()
                found[f"{axis} {kind} cosine"] = cosine(phi, vector)
                for name, eta in names.items():
                    found[name] = bench.measure([(eta, vector)], seed)
                    keep()
        log(f"seed {seed} {axis}: controls measured")


def shuffled_vector(bench: Bench, axis: str, seed: int) -> DenseVector:
    """Train the axis on shuffled labels, unless the registry has that."""
    return bench.vector(bench.version(axis, seed, shuffled=0))


def more_draws(
    bench: Bench, axis: str, draws: int, found: dict[str, Any], keep: Callable[[], None]
) -> None:
    """Shuffle the labels of an axis anew: is what one draw does a bias, or the draw's own?"""
    for number in range(1, draws + 1):
        phi = bench.vector(bench.version(axis, 0, shuffled=number))
        for eta in (1.0, -1.0):
            if (name := f"{axis} draw {number}:{eta:g}") not in found:
                found[name] = bench.measure([(eta, phi)], 0)
                keep()
        log(f"{axis}: draw {number} measured")


def first_vector(registry: prefreg.Registry, axis: str) -> DenseVector:
    """Open the first vector of an axis in a registry of another base."""
    with registry.access.reading() as store:
        record = store.resolve(axis, "1")
        source = store.vector_source(record)
    return open_vector(source, kind=record.kind, label=str(record))


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
        for prompt in pocket.prompts(kind, split=bench.split, limit=count // 2, seed=0)
    ]
    sampling = Sampling(max_new_tokens=96, temperature=1.0, seed=0)
    replies = sample_answers(bench.model, bench.tokenizer, prompts, sampling)
    return [
        {"prompt": prompt, "answer": reply, "verdict": pocket.score(prompt, reply).kind}
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def log(text: str) -> None:
    """Say how far the run is."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="figures, also to continue from")
    parser.add_argument("--registry", type=Path, required=True, help="where the vectors go")
    parser.add_argument("--base", default="pocket", help="the bundled model, or a folder")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--controls", type=int, nargs="*", help="seeds with controls (default all)")
    parser.add_argument("--foreign", type=Path, help="registry of an equal base of another seed")
    parser.add_argument("--prompts", type=int, default=400, help="prompts behind each rate")
    parser.add_argument("--draws", type=int, default=0, help="further draws of shuffled labels")
    parser.add_argument("--of", nargs="*", default=list(AXES), help="axes of further draws")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="[AXIS:]KEY=VALUE",
        help="settings other than the bundled model's",
    )
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"base": options.base, "seeds": {}, "controls": {}}
    if options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8"))

    def keep() -> None:
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        options.json.write_text(text, encoding="utf-8")

    bench = Bench(
        prefreg.open(options.registry),
        options.base,
        prompts=options.prompts,
        split=options.split,
        settings=options.set,
    )
    results["set"] = options.set
    results["parameters"] = sum(each.numel() for each in bench.model.parameters())
    for seed in options.seeds:
        study(bench, seed, results["seeds"].setdefault(str(seed), {}), keep)
    foreign = prefreg.open(options.foreign) if options.foreign else None
    for seed in options.seeds if options.controls is None else options.controls:
        controls(bench, seed, results["controls"].setdefault(str(seed), {}), keep, foreign)
    for axis in options.of if options.draws else ():
        more_draws(bench, axis, options.draws, results.setdefault("draws", {}), keep)
    results["across"] = across_seeds(bench, [int(seed) for seed in results["seeds"]])
    results["examples"] = examples(bench)
    keep()


if __name__ == "__main__":
    main()
