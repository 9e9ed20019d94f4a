"""What the ± pair costs beside two plain runs of TRL's DPOTrainer, and that it is the same pair.

`python benchmarks/pair.py --data FOLDER` takes `harmless` (whole dialogues), `helpful` and
`verbosity` from `FOLDER/AXIS/train.jsonl.gz`, makes a byte-level tokenizer of 8,192 tokens on
them and a random Llama of 17 M parameters, and trains both poles: by TRL alone, by prefreg, and
by prefreg with each of its shortcuts switched off in turn. Everything that takes a pole's half
is run for one pole and counted twice, except what φ is made of.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl.trainer.dpo_trainer import DPOTrainer

from prefreg.axes.axis import PreferencePair
from prefreg.axes.row_sources import read_rows
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.models.loading import load_model, on_gpu, quiet
from prefreg.models.log_probs import PairLogProbs
from prefreg.training.references import References
from prefreg.training.settings import Settings, dpo_config, resolve_settings
from prefreg.training.trainer import Shortcuts, choose_shortcuts, train_pole

AXES = {"harmless": {"context": "full"}, "helpful": {}, "verbosity": {}}
"""What the columns of a row must say."""
BARS = {"harmless": 0.30, "helpful": 0.45, "verbosity": 0.30}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
OFF = "switched off for the benchmark"

Weights = dict[str, torch.Tensor]


@dataclass
class Stage:
    """What a stage took; tokens are those that entered the model, with padding."""

    seconds: float = 0.0
    cpu: float = 0.0
    tokens: int = 0
    peak: int = 0
    """Bytes in memory at most: of the GPU where there is one, else of the whole process."""

    def __add__(self, other: "Stage") -> "Stage":
        return Stage(
            self.seconds + other.seconds,
            self.cpu + other.cpu,
            self.tokens + other.tokens,
            max(self.peak, other.peak),
        )


@dataclass
class Bench:
    """One axis with its base, tokens and settings."""

    base: BaseModel
    tokenizer: PreTrainedTokenizerFast
    pairs: tuple[TokenPair, ...]
    settings: Settings

    @property
    def switched(self) -> tuple[TokenPair, ...]:
        """Return the pairs of the negative pole."""
        return tuple(pair.switched() for pair in self.pairs)

    def load(self) -> PreTrainedModel:
        """Load the base to where it is trained."""
        return on_gpu(load_model(self.base))

    def config(self, **changes: Any) -> Any:
        """Return TRL's configuration."""
        config = dpo_config(self.settings, output_dir="unused", seed=0, max_length=512)
        for name, value in changes.items():
            setattr(config, name, value)
        return config


@contextmanager
def measured(model: Any, stage: Stage) -> Iterator[None]:
    """Measure what happens within, and the tokens that the model's embedding is given."""
    gc.collect()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # else what earlier stages freed would count
        Path("/proc/self/clear_refs").write_text("5")

    def count(_: Any, inputs: Any) -> None:
        stage.tokens += inputs[0].numel()

    hook = model.get_input_embeddings().register_forward_pre_hook(count)
    seconds, cpu = time.perf_counter(), time.process_time()
    yield
    if gpu:
        torch.cuda.synchronize()
    stage.seconds += time.perf_counter() - seconds
    stage.cpu += time.process_time() - cpu
    hook.remove()
    if gpu:
        stage.peak = torch.cuda.max_memory_allocated()
    else:
        status = Path("/proc/self/status").read_text()
        stage.peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])


class Losses(TrainerCallback):
    """Keep the losses of a plain run."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Take note of a step."""
        self.values.extend([logs["loss"]] if "loss" in logs else [])


class Plain(DPOTrainer):
    """TRL on data that is tokenised already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def weights(model: Any) -> Weights:
    """Copy what was trained, into main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.named_parameters()}


def plain_pole(
    bench: Bench, pairs: Sequence[TokenPair], *, precompute: bool, skip_prompts: bool = False
) -> tuple[Stage, list[float], Weights]:
    """Train a pole by TRL alone; the reference runs in its loop or, precomputed, before it."""
    rows = [
        {
            "prompt_ids": pair.prompt_ids.tolist(),
            "chosen_ids": pair.chosen_ids.tolist(),
            "rejected_ids": pair.rejected_ids.tolist(),
        }
        for pair in pairs
    ]
    stage, losses = Stage(), Losses()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        model = bench.load()
        reference = None if precompute else bench.load()
        data = Dataset.from_list(rows)
        # TRL keeps what it precomputes beside the data; a fresh path keeps runs apart.
        cache = mock.patch.object(
            Dataset, "_get_cache_file_path", return_value=f"{folder}/reference.arrow"
        )
        # On GPUs, TRL projects only answers onto the vocabulary; elsewhere everything.
        head = mock.patch("trl.trainer.utils._use_triton", return_value=skip_prompts)
        with measured(model, stage), cache, head:
            if reference is not None:
                hook = lambda _, inputs: setattr(stage, "tokens", stage.tokens + inputs[0].numel())  # noqa: E731
                reference.get_input_embeddings().register_forward_pre_hook(hook)
            trainer = Plain(
                model=model,
                ref_model=reference,
                args=bench.config(output_dir=folder, precompute_ref_log_probs=precompute),
                train_dataset=data,
                processing_class=bench.tokenizer,
                callbacks=[losses],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    return stage, losses.values, weights(model)


def reference_pass(bench: Bench, *, rows: bool) -> tuple[Stage, PairLogProbs]:
    """Score the base as prefreg does, with nothing on the disk yet."""
    stage = Stage()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        model = bench.load()
        with measured(model, stage):
            precision = "bfloat16" if bench.config().bf16 else "float32"
            scorer = References(bench.base, precision, rows=rows, folder=Path(folder))
            scores = scorer.score(model, bench.pairs).trained
    return stage, scores


def probe(bench: Bench) -> tuple[Stage, Shortcuts]:
    """Find out which shortcuts are exact."""
    stage = Stage()
    with quiet():
        model = bench.load()
        with measured(model, stage):
            shortcuts = choose_shortcuts(model, bench.pairs, bench.config())
    return stage, shortcuts


def our_pole(
    bench: Bench, pairs: Sequence[TokenPair], reference: PairLogProbs, shortcuts: Shortcuts
) -> tuple[Stage, list[float], Weights]:
    """Train a pole by prefreg."""
    stage = Stage()
    with quiet():
        model = bench.load()
        with measured(model, stage):
            curve = train_pole(
                model,
                bench.tokenizer,
                pairs,
                reference,
                settings=bench.settings,
                max_length=512,
                seed=0,
                shortcuts=shortcuts,
            )
    return stage, [point.loss for point in curve], weights(model)


def cosine(left: tuple[Weights, Weights], right: tuple[Weights, Weights]) -> float:
    """Return the cosine of two preference vectors."""
    dot = squares = others = 0.0
    place = "cuda" if torch.cuda.is_available() else "cpu"
    for name in left[0]:
        one, two = (
            (plus[name].to(place) - minus[name].to(place)).double().flatten()
            for plus, minus in (left, right)
        )
        dot += float(one @ two)
        squares += float(one @ one)
        others += float(two @ two)
    return dot / math.sqrt(squares * others)


def compare(bench: Bench) -> dict[str, Any]:
    """Run every variant on one axis."""
    up, down = bench.pairs, bench.switched
    probing, shortcuts = probe(bench)
    scoring, reference = reference_pass(bench, rows=True)
    positive, losses, plus = our_pole(bench, up, reference, shortcuts)
    negative, _, minus = our_pole(bench, down, reference.switched(), shortcuts)
    first, plain_losses, plain_plus = plain_pole(bench, up, precompute=True)
    second, _, plain_minus = plain_pole(bench, down, precompute=True)
    in_loop = plain_pole(bench, up, precompute=False)[0]
    skipping = plain_pole(bench, up, precompute=True, skip_prompts=True)[0]
    apart_scoring, apart = reference_pass(bench, rows=False)
    no_rows = our_pole(bench, up, apart, Shortcuts(shared_prompt=OFF))[0]
    no_parts = our_pole(bench, up, reference, Shortcuts(sorted_parts=OFF))[0]
    return {
        "shortcuts": shortcuts.to_json(),
        "pairs": len(up),
        "cosine": cosine((plus, minus), (plain_plus, plain_minus)),
        "loss_difference": max(abs(a - b) for a, b in zip(losses, plain_losses, strict=True)),
        "losses": losses,
        "stages": {
            "probe": asdict(probing),
            "reference": asdict(scoring),
            "positive pole": asdict(positive),
            "negative pole": asdict(negative),
        },
        "totals": {
            "two runs of TRL, reference precomputed": asdict(first + second),
            "two runs of TRL, reference in the loop": asdict(in_loop + in_loop),
            "two runs of TRL, prompts not projected": asdict(skipping + skipping),
            "prefreg": asdict(probing + scoring + positive + negative),
            "prefreg, a reference pass per pole": asdict(
                probing + scoring + scoring + positive + negative
            ),
            "prefreg, prompts not shared": asdict(apart_scoring + no_rows + no_rows),
            "prefreg, parts not sorted": asdict(probing + scoring + no_parts + no_parts),
        },
    }


def read(folder: Path, axis: str) -> list[PreferencePair]:
    """Read the pairs of an axis, shuffled."""
    rows = [row for _, row in read_rows(folder / axis / "train.jsonl.gz")]
    wanted = AXES[axis].items()
    pairs = [
        PreferencePair.from_row(row)
        for row in rows
        if all(row[column] == value for column, value in wanted)
    ]
    random.Random(0).shuffle(pairs)
    return pairs


def make_tokenizer(pairs: Sequence[PreferencePair], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the texts."""
    texts = (
        turn.content
        for pair in pairs
        for part in (pair.prompt, pair.chosen, pair.rejected)
        for turn in part
        if not isinstance(turn, str)
    )
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=SPECIALS)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
    made.chat_template = TEMPLATE
    return made


def make_base(folder: Path, tokenizer: PreTrainedTokenizerFast, hidden: int) -> BaseModel:
    """Write a random Llama with its tokenizer."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=6,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            max_position_embeddings=1024,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_base(str(folder))


def tables(results: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    lines = []
    for axis, found in results["axes"].items():
        plain = min(
            (found["totals"][name] for name in list(found["totals"])[:2]),
            key=lambda total: total["seconds"],
        )
        lines += [
            f"\n### {axis}: {found['pairs']} pairs\n",
            f"cos(φ, φ of TRL) {found['cosine']:.6f}; losses differ by "
            f"{found['loss_difference']:.1e} at most.\n",
            "| | seconds | of two plain runs | processor seconds | of theirs | tokens | of theirs "
            "| peak MiB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, stage in {**found["totals"], **found["stages"]}.items():
            lines.append(
                f"| {name} | {stage['seconds']:.1f} | {stage['seconds'] / plain['seconds']:.3f} "
                f"| {stage['cpu']:.1f} | {stage['cpu'] / plain['cpu']:.3f} "
                f"| {stage['tokens']:,} | {stage['tokens'] / plain['tokens']:.3f} "
                f"| {stage['peak'] / 2**20:.0f} |"
            )
    return "\n".join(lines)


def judge(results: dict[str, Any]) -> list[str]:
    """Name every bar that is missed."""
    missed = []
    for axis, found in results["axes"].items():
        totals = found["totals"]
        plain = [totals[name] for name in list(totals)[:2]]
        ours = totals["prefreg"]
        ratio = ours["seconds"] / min(total["seconds"] for total in plain)
        for what, held in (
            (f"wall {ratio:.3f} > {BARS[axis]}", ratio <= BARS[axis]),
            (f"cosine {found['cosine']:.6f} < .999", found["cosine"] >= 0.999),
            (f"loss {found['loss_difference']:.1e} > 1e-3", found["loss_difference"] <= 1e-3),
            ("peak memory higher", ours["peak"] <= min(total["peak"] for total in plain)),
        ):
            missed += [] if held else [f"{axis}: {what}"]
    return missed


def main() -> None:
    """Measure every axis and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the preference files")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps of 16 pairs")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
    data = {axis: read(options.data, axis) for axis in AXES}
    steps = [f"max_steps={options.steps}", "warmup_steps=0"]
    settings = resolve_settings(preset="quick", assignments=steps)
    results: dict[str, Any] = {"load": os.getloadavg(), "axes": {}}
    with tempfile.TemporaryDirectory() as folder, quiet():
        tokenizer = make_tokenizer([pair for pairs in data.values() for pair in pairs], 8192)
        base = make_base(Path(folder) / "base", tokenizer, options.hidden)
        results["parameters"] = base.fingerprint.parameters
        for axis in options.axes:
            tokens = tokenise_pairs(data[axis][: 64 * options.steps], tokenizer, max_length=512)
            bench = Bench(base, tokenizer, tokens.pairs[: 16 * options.steps], settings)
            results["axes"][axis] = compare(bench)
            print(tables({"axes": {axis: results["axes"][axis]}}), flush=True)
    results["load_after"] = os.getloadavg()
    results["missed"] = judge(results)
    print(f"\nload {results['load']} before, {results['load_after']} after")
    print("missed:", "; ".join(results["missed"]) or "nothing")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
