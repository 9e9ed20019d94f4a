"""Do vectors of real pairs act in both directions on a model that is not the bundled one?

`python benchmarks/real_pairs.py --base DIR --train FILE --dev FILE --axis NAME` trains the axis
through the Python API into a scratch registry and measures, on the dev file,
Δ(x; η) = [log π_η(chosen) − log π_0(chosen)] − [log π_η(rejected) − log π_0(rejected)] in nats.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import prefreg
from prefreg.axes import PreferencePair
from prefreg.data.files import read_preference_file
from prefreg.data.tokens import TokenPair, tokenize_pairs
from prefreg.evaluation.statistics import FEWEST_GROUPS, Estimate, grouped_mean
from prefreg.scoring.log_probs import PairLogProbs, answer_log_probs

ETAS = (-1.0, -0.5, 0.5, 1.0)
MATCHED = 0.1
"""Answers are length-matched when their tokens differ by at most this share of the longer."""

Figures = dict[str, Any]


def read_dev(path: Path, limit: int | None) -> list[PreferencePair]:
    """Read the dev pairs, or as many of them, drawn at random."""
    pairs = [pair for _, pair in read_preference_file(path)]
    return pairs if limit is None else random.Random(0).sample(pairs, min(limit, len(pairs)))


def delta(turned: PairLogProbs, base: PairLogProbs, *, per_token: bool) -> torch.Tensor:
    """Return Δ of every pair, of the answers' sums or of their mean tokens."""
    chosen = turned.chosen - base.chosen
    rejected = turned.rejected - base.rejected
    if per_token:
        chosen, rejected = chosen / base.chosen_tokens, rejected / base.rejected_tokens
    return chosen - rejected


def accuracy(values: torch.Tensor) -> torch.Tensor:
    """Mark every pair whose Δ is positive; a tie counts one half."""
    return (values > 0).double() + 0.5 * (values == 0).double()


def matched(scores: PairLogProbs) -> torch.Tensor:
    """Mark the pairs whose answers are about as long, in tokens."""
    longer = torch.maximum(scores.chosen_tokens, scores.rejected_tokens)
    return (scores.chosen_tokens - scores.rejected_tokens).abs() <= MATCHED * longer


def figures(
    turned: PairLogProbs, base: PairLogProbs, groups: Sequence[object]
) -> dict[str, Estimate | None]:
    """Measure one η on all pairs and on the length-matched ones."""
    found: dict[str, Estimate | None] = {}
    every = torch.ones(len(base), dtype=torch.bool)
    for name, mask in (("all", every), ("matched", matched(base))):
        places = mask.nonzero().flatten().tolist()
        owners = [groups[place] for place in places]
        for unit, per_token in (("nats", False), ("per token", True)):
            values = delta(turned, base, per_token=per_token)[mask]
            found[f"{name}, {unit}"] = estimate(values, owners)
            found[f"{name}, {unit}, accuracy"] = estimate(accuracy(values), owners)
    return found


def estimate(values: torch.Tensor, owners: Sequence[object]) -> Estimate | None:
    """Estimate a mean by groups; None where there are too few."""
    if len(set(owners)) < FEWEST_GROUPS:
        return None
    return grouped_mean(values.tolist(), list(map(str, owners)))


def measure(options: argparse.Namespace, location: Path) -> Figures:
    """Train, turn the dials of one loaded model, and score the dev pairs at every η."""
    registry = prefreg.open(location)
    started = time.perf_counter()
    record = registry.add_axis(
        options.axis,
        base=str(options.base),
        data=str(options.train),
        limit=options.limit,
        seed=options.seed,
        max_length=options.max_length,
        settings=tuple(options.set),
        keep_anyway=options.keep_anyway,
    )
    seconds = time.perf_counter() - started
    steered = registry.load(str(options.base), {options.axis: 0})
    dev = read_dev(options.dev, options.dev_limit)
    tokens = tokenize_pairs(dev, steered.tokenizer, max_length=options.max_length)
    kept = [dev[position] for position in tokens.kept]
    groups = [
        position if pair.group is None else pair.group
        for position, pair in zip(tokens.kept, kept, strict=True)
    ]
    base = answer_log_probs(steered.model, tokens.pairs)
    by_eta: dict[str, Mapping[str, Any]] = {}
    for eta in ETAS:
        turned = answer_log_probs(steered.set({options.axis: eta}).model, tokens.pairs)
        found = figures(turned, base, groups)
        by_eta[f"{eta:g}"] = {key: each and asdict(each) for key, each in found.items()}
    return {
        "axis": options.axis,
        "base": options.base.name,
        "train": f"{options.train.parent.name}/{options.train.name}",
        "dev": f"{options.dev.parent.name}/{options.dev.name}",
        "settings": record.metadata["training"]["settings"],
        "limit": options.limit,
        "seed": options.seed,
        "audit": record.metadata["data"]["audit"],
        "geometry": {key: record.metadata["geometry"][key] for key in ("norm", "cosine_poles")},
        "guards": {
            pole: record.metadata["poles"][pole]["failures"] for pole in ("positive", "negative")
        },
        "seconds": seconds,
        "pairs": len(tokens.pairs),
        "groups": len(set(map(str, groups))),
        "dropped": tokens.dropped_long + tokens.indistinct,
        "truncated": tokens.truncated,
        "matched": int(matched(base).sum()),
        "matched_groups": count_groups(groups, matched(base)),
        "median_tokens": median_tokens(tokens.pairs),
        "by_eta": by_eta,
    }


def count_groups(groups: Sequence[object], mask: torch.Tensor) -> int:
    """Count the distinct groups among the marked pairs."""
    return len({str(groups[place]) for place in mask.nonzero().flatten().tolist()})


def median_tokens(pairs: Sequence[TokenPair]) -> dict[str, float]:
    """Return the median length of both answers."""
    lengths = {
        "chosen": [len(pair.chosen_ids) for pair in pairs],
        "rejected": [len(pair.rejected_ids) for pair in pairs],
    }
    return {
        key: float(torch.tensor(values, dtype=torch.float64).median())
        for key, values in lengths.items()
    }


def print_tables(found: Figures) -> None:
    """Print the figures as markdown."""
    lengths = found["median_tokens"]
    print(f"### {found['axis']} on {found['base']}\n")
    print(
        f"{found['audit']['train']} training pairs of {found['train']}, {found['seconds']:.0f} s; "
        f"{found['pairs']} dev pairs in {found['groups']} groups of {found['dev']} "
        f"({found['truncated']} cut, {found['dropped']} dropped); median answer tokens "
        f"{lengths['chosen']:.0f} chosen, {lengths['rejected']:.0f} rejected; "
        f"{found['matched']} pairs in {found['matched_groups']} groups are length-matched "
        f"(within {MATCHED:.0%}). cos(φ+, φ−) {found['geometry']['cosine_poles']:.2f}.\n"
    )
    for name, title in (("all", "All pairs"), ("matched", "Length-matched pairs")):
        print(f"{title}:\n")
        print("| η | mean Δ, nats | Δ > 0 | mean Δ per token, millinats | Δ per token > 0 |")
        print("|---|---|---|---|---|")
        for eta, row in found["by_eta"].items():
            cells = [
                show(row[f"{name}, nats"], 1, 2),
                show(row[f"{name}, nats, accuracy"], 1, 2),
                show(row[f"{name}, per token"], 1000, 1),
                show(row[f"{name}, per token, accuracy"], 1, 2),
            ]
            print(f"| {eta} | {' | '.join(cells)} |")
        print(f"\nClaim, mean Δ(−1) < 0 < mean Δ(+1): {verdict(found['by_eta'], name)}.\n")


def show(cell: Mapping[str, float] | None, scale: float, digits: int) -> str:
    """Write an estimate with its interval."""
    if cell is None:
        return "too few"
    value, low, high = (scale * cell[key] for key in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def verdict(by_eta: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Say whether the intervals at −1 and +1 exclude 0 on the right sides, in both units."""
    said = []
    for unit in ("nats", "per token"):
        ends = [by_eta[eta][f"{name}, {unit}"] for eta in ("-1", "1")]
        holds = None not in ends and ends[0]["high"] < 0 < ends[1]["low"]
        said.append(f"{'holds' if holds else 'does not hold'} in {unit}")
    return ", ".join(said)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one axis on one base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--train", type=Path, required=True, help="pairs to train on (.jsonl[.gz])")
    parser.add_argument("--dev", type=Path, required=True, help="pairs to measure on")
    parser.add_argument("--axis", default="verbosity")
    parser.add_argument("--limit", type=int, help="first rows of the training file")
    parser.add_argument("--dev-limit", type=int, help="dev rows, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep-anyway", action="store_true", help="also where a guard fails")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch) / "registry.db")
    if options.json:
        text = json.dumps(found, indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    print_tables(found)


if __name__ == "__main__":
    main()
