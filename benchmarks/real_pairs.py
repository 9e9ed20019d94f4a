"""Do vectors of real pairs act in both directions on a model that is not the bundled one?

    python tools/real/build_base.py --data PACK --output BASE
    python benchmarks/real_pairs.py --base BASE --data PACK --output OUT

trains an axis from each `PACK/prefs/AXIS/train.jsonl.gz` into `OUT/registry.db` and measures it on
the rows of `dev.jsonl.gz` beside it, which share no group with those of training:
Δ(x; η) = [log π_η(chosen) − log π_0(chosen)] − [log π_η(rejected) − log π_0(rejected)] in nats.
Stopped, the same command goes on where it was. `OUT/results.json` and `OUT/results.md` hold it all.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import prefreg
from prefreg.axes.axis import PreferencePair
from prefreg.axes.row_sources import read_preference_file
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.errors import PrefregError
from prefreg.evaluation.consistency import cosines
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.registry import VersionRecord
from prefreg.vectors import open_vector
from prefreg.vectors.algebra import gram

AXES = ("harmless", "helpful", "verbosity", "truthful", "informative", "polite")
ETAS = (-1.0, -0.5, 0.0, 0.5, 1.0)
MATCHED = 0.1
"""Answers are length-matched when their tokens differ by at most this share of the longer."""

Figures = dict[str, Any]


def name_axis(name: str, options: argparse.Namespace) -> str:
    """Return what `add-axis` calls the axis: an installed one, or a file that declares it."""
    installed, _ = prefreg.open(options.output / "registry.db").axes()
    axes = [report.installed.axis for report in installed]
    if name in {called for axis in axes for called in (axis.name, *axis.aliases)}:
        return name
    file = options.output / f"{name}.yaml"
    train = (options.data / "prefs" / name / "train.jsonl.gz").resolve()
    content = {"name": name, "summary": f"The pairs of {name}.", "sources": [{"file": str(train)}]}
    file.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML, too
    return str(file)


def train_axis(name: str, options: argparse.Namespace) -> VersionRecord:
    """Train an axis, unless an earlier call has stored it."""
    registry = prefreg.open(options.output / "registry.db")
    for record in registry.vectors() if registry.access.is_present() else ():
        if name in (record.axis, *record.axis_aliases):
            return record
    return registry.add_axis(
        name_axis(name, options),
        base=str(options.base),
        data=str(options.data / "prefs" / name / "train.jsonl.gz"),
        limit=options.limit,
        seed=options.seed,
        max_length=options.max_length,
        settings=tuple(options.set),
        keep_anyway=True,  # what a guard refuses is measured all the same, and reported
    )


def measure(name: str, record: VersionRecord, options: argparse.Namespace) -> Figures:
    """Turn the dial of one loaded model, and score the dev pairs at every η."""
    steered = prefreg.open(options.output / "registry.db").load(str(options.base), {record.axis: 0})
    path = options.data / "prefs" / name / "dev.jsonl.gz"
    dev = [pair for _, pair in read_preference_file(path)]
    dev = random.Random(0).sample(dev, min(options.dev_limit, len(dev)))
    tokens = tokenise_pairs(dev, steered.tokenizer, max_length=options.max_length)
    groups = [group_of(dev[position], position) for position in tokens.kept]
    base = answer_log_probs(steered.model, tokens.pairs)
    by_eta = {}
    for eta in ETAS:
        # At 0 the model is the base, bit for bit.
        turned = (
            answer_log_probs(steered.set({record.axis: eta}).model, tokens.pairs) if eta else base
        )
        found = figures(turned, base, groups)
        by_eta[f"{eta:g}"] = {key: each and asdict(each) for key, each in found.items()}
    metadata = record.metadata
    return {
        "axis": name,
        "audit": metadata["data"]["audit"],
        "geometry": {key: metadata["geometry"][key] for key in ("norm", "cosine_poles")},
        "reports": {pole: metadata["poles"][pole]["report"] for pole in metadata["poles"]},
        "guards": {pole: metadata["poles"][pole]["failures"] for pole in metadata["poles"]},
        "seconds": metadata["seconds"]["total"],
        "pairs": len(tokens.pairs),
        "groups": len(set(groups)),
        "dropped": tokens.dropped_long + tokens.indistinct,
        "truncated": tokens.truncated,
        "matched": int(matched(base).sum()),
        "median_tokens": median_tokens(tokens.pairs),
        "by_eta": by_eta,
    }


def group_of(pair: PreferencePair, position: int) -> str:
    """Return the group of a pair; one without is alone."""
    return f"row {position}" if pair.group is None else pair.group


def figures(
    turned: PairLogProbs, base: PairLogProbs, groups: Sequence[str]
) -> dict[str, Estimate | None]:
    """Measure one η on all pairs and on the length-matched ones."""
    found: dict[str, Estimate | None] = {}
    every = torch.ones(len(base), dtype=torch.bool)
    for name, mask in (("all", every), ("matched", matched(base))):
        owners = [group for group, kept in zip(groups, mask.tolist(), strict=True) if kept]
        for unit, per_token in (("nats", False), ("per token", True)):
            values = delta(turned, base, per_token=per_token)[mask]
            margin = margins_of(turned, per_token=per_token)[mask]
            found[f"{name}, {unit}"] = estimate(values, owners)
            found[f"{name}, {unit}, accuracy"] = estimate(positive(values), owners)
            found[f"{name}, {unit}, prefers chosen"] = estimate(positive(margin), owners)
    return found


def margins_of(scores: PairLogProbs, *, per_token: bool) -> torch.Tensor:
    """Return log p(chosen) − log p(rejected), of the answers' sums or of their mean tokens."""
    if per_token:
        return scores.chosen / scores.chosen_tokens - scores.rejected / scores.rejected_tokens
    return scores.chosen - scores.rejected


def delta(turned: PairLogProbs, base: PairLogProbs, *, per_token: bool) -> torch.Tensor:
    """Return Δ of every pair."""
    return margins_of(turned, per_token=per_token) - margins_of(base, per_token=per_token)


def positive(values: torch.Tensor) -> torch.Tensor:
    """Mark every pair whose value is positive; a tie counts one half."""
    return (values > 0).double() + 0.5 * (values == 0).double()


def matched(scores: PairLogProbs) -> torch.Tensor:
    """Mark the pairs whose answers are about as long, in tokens."""
    longer = torch.maximum(scores.chosen_tokens, scores.rejected_tokens)
    return (scores.chosen_tokens - scores.rejected_tokens).abs() <= MATCHED * longer


def estimate(values: torch.Tensor, owners: Sequence[str]) -> Estimate | None:
    """Estimate a mean by groups; None where there are too few."""
    return grouped_mean(values.tolist(), owners) if len(set(owners)) > 1 else None


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


def angles(records: Sequence[VersionRecord], options: argparse.Namespace) -> list[list[float]]:
    """Return the cosine of every two axes."""
    with prefreg.open(options.output / "registry.db").access.reading() as store:
        vectors = [open_vector(store.vector_source(each), kind=each.kind) for each in records]
    products = torch.stack(list(gram(vectors).values())).sum(0)
    for vector in vectors:
        vector.close()
    return [list(map(float, row)) for row in cosines(products.numpy())]


def tables(found: Figures) -> str:
    """Write the figures as markdown."""
    lines = ["### Cosines of the vectors\n", "| | " + " | ".join(found["axes"]) + " |"]
    lines.append("|---" * (len(found["axes"]) + 1) + "|")
    for name, row in zip(found["axes"], found["cosines"], strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    for axis in found["axes"]:
        lines += axis_lines(found["measured"][axis])
    for name, reason in found["failed"].items():
        lines.append(f"\n### {name}\n\nNot trained: {reason}")
    return "\n".join(lines) + "\n"


def axis_lines(found: Figures) -> list[str]:
    """Write the figures of one axis."""
    lengths = found["median_tokens"]
    missed = [
        f"{pole}: {failure['figure']} {failure['value']:.3g}"
        for pole, failures in found["guards"].items()
        for failure in failures
    ]
    lines = [
        f"\n### {found['axis']}\n",
        f"{found['audit']['train']} training pairs, {found['seconds']:.0f} s; {found['pairs']} dev "
        f"pairs in {found['groups']} groups ({found['truncated']} cut, {found['dropped']} out); "
        f"median answer tokens {lengths['chosen']:.0f} chosen, {lengths['rejected']:.0f} rejected; "
        f"{found['matched']} pairs are length-matched. "
        f"cos(φ+, φ−) {found['geometry']['cosine_poles']:.2f}. "
        + (f"Guards missed: {'; '.join(missed)}." if missed else "No guard was missed."),
    ]
    for name, title in (("all", "All pairs"), ("matched", "Length-matched pairs")):
        lines += [f"\n{title}:\n"]
        lines.append(
            "| η | mean Δ, nats | Δ > 0 | prefers chosen | mean Δ per token, millinats "
            "| Δ per token > 0 | prefers chosen per token |"
        )
        lines.append("|---|---|---|---|---|---|---|")
        for eta, row in found["by_eta"].items():
            cells = [
                show(row[f"{name}, {unit}{what}"], scale if not what else 1, digits)
                for unit, scale, digits in (("nats", 1, 2), ("per token", 1000, 2))
                for what in ("", ", accuracy", ", prefers chosen")
            ]
            lines.append(f"| {eta} | {' | '.join(cells)} |")
        lines.append(f"\nClaim, mean Δ(−1) < 0 < mean Δ(+1): {verdict(found['by_eta'], name)}.")
    return lines


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


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, required=True, help="folder with prefs/AXIS/*.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder of what is found")
    parser.add_argument("--axes", default=",".join(AXES), metavar="NAME,...")
    parser.add_argument("--limit", type=int, help="first rows of each training file")
    parser.add_argument("--dev-limit", type=int, default=500, help="dev rows, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure every axis on one base."""
    options = read_options(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    records, failed, measured = [], {}, {}
    for name in options.axes.split(","):
        kept = options.output / f"{name}.json"
        try:
            record = train_axis(name, options)
            if not kept.exists():
                kept.write_text(
                    json.dumps(measure(name, record, options), indent=1) + "\n", "utf-8"
                )
        except PrefregError as error:
            failed[name] = str(error)
            continue
        records.append(record)
        measured[name] = json.loads(kept.read_text("utf-8"))
        print(f"{name}: done", flush=True)
    found = {
        "base": options.base.name,
        "settings": {key: str(getattr(options, key)) for key in ("limit", "seed", "max_length")},
        "training": records[0].metadata["training"]["settings"] if records else {},
        "axes": list(measured),
        "measured": measured,
        "cosines": angles(records, options) if records else [],
        "failed": failed,
    }
    (options.output / "results.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (options.output / "results.md").write_text(tables(found), "utf-8")
    print(tables(found))


if __name__ == "__main__":
    main()
