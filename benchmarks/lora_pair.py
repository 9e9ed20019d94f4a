"""What a pair of adapters on a real chat model costs on a CPU, beside plain runs of TRL.

`python benchmarks/lora_pair.py --base MODEL --data FOLDER` takes `FOLDER/AXIS/train.jsonl.gz`,
trains both poles by prefreg, and one pole by TRL in float32 and in bfloat16, on the same pairs in
the same steps with the same seed. TRL gets its best settings: the reference precomputed, no
checkpointing, in bfloat16 a base that is stored in it. Its time is counted twice, as a pair needs
two such runs.
Held-out margins are of the positive poles, measured in float32. Loading is left out everywhere.
"""

import argparse
import json
import os
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from pair import AXES, Losses, Plain, Stage, measured, read
from transformers import PreTrainedModel, PrinterCallback

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.models.log_probs import PairLogProbs, answer_log_probs, margins
from prefreg.training.axis_request import LoraOptions
from prefreg.training.lora import Lora, choose_layers
from prefreg.training.precision import choose_precision
from prefreg.training.references import References
from prefreg.training.settings import Settings, dpo_config, resolve_settings
from prefreg.training.trainer import choose_shortcuts, train_pole

BARS = {"float32": 0.20, "bfloat16": 0.45}
"""Of the processor time of two plain runs."""
LENGTH = 512


@dataclass
class Bench:
    """What all runs share."""

    base: BaseModel
    lora: Lora
    train: tuple[TokenPair, ...]
    heldout: tuple[TokenPair, ...]
    settings: Settings

    def config(self, settings: Settings, **changes: Any) -> Any:
        """Return TRL's configuration."""
        config = dpo_config(settings, output_dir="unused", seed=0, max_length=LENGTH)
        for name, value in changes.items():
            setattr(config, name, value)
        return config

    def score(self, model: PreTrainedModel) -> PairLogProbs:
        """Score the held-out pairs in float32."""
        return answer_log_probs(model.float(), self.heldout)


def our_pair(bench: Bench) -> dict[str, Any]:
    """Train both poles as `prefreg add-axis --lora` does."""
    settings, precision = choose_precision(bench.settings, bench.base, lora=True)
    tokenizer, found = load_tokenizer(bench.base), {}
    model = load_model(bench.base)
    with measured(model, probing := Stage()):
        shortcuts = choose_shortcuts(model, bench.train, bench.config(settings))
        model.to(precision.dtype)
    rows = shortcuts.shared_prompt is None
    with tempfile.TemporaryDirectory() as folder, measured(model, scoring := Stage()):
        scorer = References(
            bench.base,
            precision.compute,
            rows=rows,
            weights=precision.weights,
            folder=Path(folder),
        )
        reference = scorer.score(model, bench.train).trained
    total = probing + scoring
    for pole in ("positive", "negative"):
        pairs, scores = bench.train, reference
        if pole == "negative":
            pairs, scores = tuple(pair.switched() for pair in pairs), scores.switched()
            model = load_model(bench.base, precision.dtype)
        with measured(model, stage := Stage()):
            curve = train_pole(
                model,
                tokenizer,
                pairs,
                scores,
                settings=settings,
                max_length=LENGTH,
                seed=0,
                lora=bench.lora.config(),
                shortcuts=shortcuts,
            )
        total += stage
        found[pole] = asdict(stage)
        if pole == "positive":
            margin, losses = bench.score(model), [point.loss for point in curve]
    return {
        "precision": precision.to_json(),
        "shortcuts": shortcuts.to_json(),
        "stages": {"probe": asdict(probing), "reference": asdict(scoring), **found},
        "total": total,
        "losses": losses,
        "scores": margin,
    }


def plain_run(bench: Bench, *, bf16: bool) -> dict[str, Any]:
    """Train one pole by TRL alone."""
    rows = [
        {
            "prompt_ids": pair.prompt_ids.tolist(),
            "chosen_ids": pair.chosen_ids.tolist(),
            "rejected_ids": pair.rejected_ids.tolist(),
        }
        for pair in bench.train
    ]
    settings = replace(bench.settings, values={**bench.settings.values, "bf16": bf16})
    model = load_model(bench.base, torch.bfloat16 if bf16 else torch.float32)
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        # TRL keeps what it precomputes beside the data; a fresh path keeps runs apart.
        cache = mock.patch.object(
            Dataset, "_get_cache_file_path", return_value=f"{folder}/reference.arrow"
        )
        with measured(model, stage := Stage()), cache:
            trainer = Plain(
                model=model,
                args=bench.config(settings, output_dir=folder),
                train_dataset=Dataset.from_list(rows),
                processing_class=load_tokenizer(bench.base),
                peft_config=bench.lora.config(),
                callbacks=[losses],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    return {"total": stage + stage, "losses": losses.values, "scores": bench.score(model)}


def compare(bench: Bench) -> dict[str, Any]:
    """Run all, the shorter ones first, and set them side by side."""
    makers = {
        "prefreg": our_pair,
        "bfloat16": partial(plain_run, bf16=True),
        "float32": partial(plain_run, bf16=False),
    }
    runs = {}
    with quiet():
        before = bench.score(load_model(bench.base))
        for name, make in makers.items():
            runs[name] = make(bench)
            print(name, runs[name]["total"], flush=True)
    for run in runs.values():
        change = margins(run.pop("scores")) - margins(before)
        run["margin"] = float(change.mean())
        run["margin_error"] = float(change.std() / len(change) ** 0.5)
        run["accuracy"] = float((change > 0).double().mean())
        run["total"] = asdict(run["total"])
    ours = runs["prefreg"]["total"]
    for name in BARS:
        theirs = runs[name]["total"]
        runs[name]["share"] = {key: ours[key] / theirs[key] for key in ("seconds", "cpu", "peak")}
    return runs


def judge(runs: dict[str, Any]) -> list[str]:
    """Name every bar that is missed."""
    missed, ours = [], runs["prefreg"]
    for name, bar in BARS.items():
        plain = runs[name]
        apart = abs(ours["margin"] - plain["margin"])
        noise = 2 * (ours["margin_error"] ** 2 + plain["margin_error"] ** 2) ** 0.5
        if plain["share"]["cpu"] > bar:
            missed.append(f"{plain['share']['cpu']:.3f} of two runs in {name} (bar {bar})")
        if apart > noise:
            missed.append(f"margins differ by {apart:.2f} nats from {name} (noise {noise:.2f})")
        if plain["share"]["peak"] > 1:
            missed.append(f"peak memory {plain['share']['peak']:.2f} of {name}")
    return missed


def table(runs: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    lines = [
        "| | seconds | processor seconds | peak MiB | prefreg's share of them | margin |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        total, share = run["total"], run.get("share")
        shares = f"{share['seconds']:.3f}, {share['cpu']:.3f}" if share else ""
        label = "prefreg" if name == "prefreg" else f"two runs of TRL in {name}"
        lines.append(
            f"| {label} | {total['seconds']:.0f} | {total['cpu']:.0f} "
            f"| {total['peak'] / 2**20:.0f} | {shares} "
            f"| {run['margin']:.2f} ± {run['margin_error']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure an axis and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="a chat model")
    parser.add_argument("--data", type=Path, required=True, help="folder of the preference files")
    parser.add_argument("--axis", default="verbosity", choices=AXES)
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps of 16 pairs")
    parser.add_argument("--heldout", type=int, default=24, help="pairs")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
    base = resolve_base(options.base)
    settings = resolve_settings(
        preset="quick", assignments=[f"max_steps={options.steps}", "warmup_steps=0"], lora=True
    )
    settings = replace(settings, values={**settings.values, "learning_rate": 2e-4})
    wanted = 16 * options.steps
    pairs = read(options.data, options.axis)[: 4 * (wanted + options.heldout)]
    tokens = tokenise_pairs(pairs, load_tokenizer(base), max_length=LENGTH).pairs
    bench = Bench(
        base,
        choose_layers(LoraOptions(options.rank, 2.0 * options.rank), base),
        tokens[:wanted],
        tokens[wanted : wanted + options.heldout],
        settings,
    )
    load = os.getloadavg()
    runs = compare(bench)
    print(table(runs))
    missed = judge(runs)
    print(f"\nload {load} before, {os.getloadavg()} after, {options.threads} threads")
    print("missed:", "; ".join(missed) or "nothing")
    if options.json:
        found = {"load": load, "load_after": os.getloadavg(), "missed": missed, "runs": runs}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
