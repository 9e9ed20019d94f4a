"""What is left of a held-out margin when a composition is rounded to bfloat16.

    python benchmarks/rounding.py --registry registry.db --axis helpful

The base is the bundled model with its weights in bfloat16. Each composition is written with one
vector at a small coefficient, then loaded in float32, so that nothing but the weights is rounded.
The margin is the mean change of log p(chosen) − log p(rejected) against that base, over the pairs
that the axis's training held out, in nats; `kept` is its share of what float32 weights have.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM

from prefreg.axes.plugins import load_axes
from prefreg.checkpoints.bases import resolve_base
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.rounding import Rounding
from prefreg.data.mixture import open_rows
from prefreg.data.pairs import build_pairs
from prefreg.data.tokens import tokenise_poles
from prefreg.models.loading import load_tokenizer
from prefreg.models.log_probs import answer_log_probs
from prefreg.pocket import TRAINING
from prefreg.registry import Access
from prefreg.training.guards import compare
from prefreg.training.settings import resolve_settings


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", default="registry.db")
    parser.add_argument("--axis", default="helpful")
    parser.add_argument("--etas", type=float, nargs="+", default=[1.0, 0.1, 0.03, 0.01])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    pocket = resolve_base("pocket")
    access = Access(options.registry)
    axis = load_axes().find(options.axis).axis
    rows = open_rows(
        axis, data=None, base="pocket", limit=None, revision=None, seed=0,
        accept_licence=False, note=None,
    )  # fmt: skip
    texts = build_pairs(rows.pairs, axis_name=axis.name, seed=0)
    settings = resolve_settings(default=TRAINING)
    tokens = tokenise_poles(
        axis, texts, load_tokenizer(pocket), max_length=settings.max_length(None)
    )
    pairs = tokens.positive[tokens.report]
    with access.reading() as store:
        record = store.resolve(options.axis, None, base=pocket.fingerprint.weights)
        source = store.vector_source(record)
    print(f"{len(pairs)} {tokens.split} pairs of {record}\n")
    print("| η | weights | gain | margin, nats | kept |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_composition(Plan(pocket, []), folder / "base", dtype="bfloat16")
        base = resolve_base(str(folder / "base"))

        def score(path: Path):
            model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
            return answer_log_probs(model, pairs)

        reference = score(base.path)

        def margin(eta: float, dtype: str, rounding: Rounding) -> tuple[float, float]:
            plan = Plan(base, [PlannedTerm(record, eta, source)], force_base=True)
            target = folder / f"{eta}-{dtype}-{rounding.kind}-{rounding.seed}"
            written = write_composition(plan, target, dtype=dtype, rounding=rounding)
            report = compare(score(target), reference)
            return written.survival.gain, report.mean_margin

        for eta in options.etas:
            exact = margin(eta, "float32", Rounding())
            seeds = [Rounding("stochastic", seed) for seed in range(options.seeds)]
            random = [margin(eta, "bfloat16", rounding) for rounding in seeds]
            mean = tuple(statistics.mean(values) for values in zip(*random, strict=True))
            table = {
                "float32": exact,
                "bfloat16, nearest": margin(eta, "bfloat16", Rounding()),
                f"bfloat16, stochastic (mean of {options.seeds})": mean,
            }
            for label, (gain, change) in table.items():
                print(
                    f"| {eta:g} | {label} | {gain:.3f} | {change:.4f} | {change / exact[1]:.2f} |"
                )
            spread = statistics.stdev(change for _, change in random) / exact[1]
            print(f"| {eta:g} | the same, deviation between seeds | | | {spread:.2f} |", flush=True)


if __name__ == "__main__":
    main()
