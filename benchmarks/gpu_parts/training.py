"""The ± pair beside two plain runs of TRL's DPOTrainer: seconds, peak memory, the cosine of φ.

Both train in bfloat16 over float32 weights with the fused AdamW, and TRL with its reference
precomputed and its fused head; activations are checkpointed where they would not fit. A short run
in float32, of two layers, shows that it is the same pair. Making the models is left out, and so is
the hash of all weights by which TRL names what it precomputes.
"""

import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pair import Bench, Stage, cosine, our_pole, plain_pole, probe, reference_pass
from transformers import PreTrainedModel

from gpu_parts.inputs import DEVICE, SHAPES, free, make_base, make_model, make_pairs
from prefreg.checkpoints import resolve_base
from prefreg.models.loading import load_tokenizer
from prefreg.training.settings import Settings, resolve_settings

BAR = 0.35
BATCH = 16
TRIED = {"num_hidden_layers": 2}


@dataclass(frozen=True)
class Size:
    """What one part trains."""

    shape: str
    steps: int
    checkpointed: bool
    longest: int = 512


SMALL = Size("small", 2, False, longest=60)
SIZES = {
    "pair": Size("Llama-3.2-1B", 16, False),
    # Its weights, gradients and moments take 51 GB.
    "pair-3b": Size("Llama-3.2-3B", 6, True),
}


@dataclass
class RandomBench(Bench):
    """A bench whose base is made anew on the device each time, which is faster than reading it."""

    shape: str = "small"
    changes: dict[str, int] = field(default_factory=dict)

    def load(self) -> PreTrainedModel:
        """Make the base in float32, once what was trained before is gone."""
        free()
        model: PreTrainedModel = make_model(self.shape, torch.float32, **self.changes)
        return model


def measure(record: Any, part: str, folder: Path, *, small: bool) -> None:
    """Train the pair by prefreg and by TRL."""
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
    size = SMALL if small else SIZES[part]
    whole = make_bench(size, folder)
    exact = replace(
        whole,
        changes=TRIED,
        pairs=whole.pairs[: 2 * BATCH],
        settings=settings(size, steps=2, reduced=False),
    )
    record.say(f"{len(whole.pairs)} pairs of {mean_tokens(whole):.0f} tokens; trying two layers")
    with mock.patch("trl.trainer.dpo_trainer.hash_module", return_value=""):
        # In the same shapes: what is compiled for them is compiled here.
        agree(record, "two layers in float32", exact)
        if DEVICE == "cuda":
            shortened = replace(exact, settings=settings(size, steps=2, reduced=True))
            agree(record, "two layers in bfloat16", shortened)
        compare(record, size, whole)


def make_bench(size: Size, folder: Path) -> RandomBench:
    """Make what both train on."""
    return RandomBench(
        # Nothing of it is read but its name in the cache of the reference.
        make_base(folder / "base", "small"),
        load_tokenizer(resolve_base("pocket")),
        make_pairs(BATCH * size.steps, SHAPES[size.shape]["vocab_size"], size.longest),
        settings(size, steps=size.steps, reduced=DEVICE == "cuda"),
        shape=size.shape,
    )


def settings(size: Size, *, steps: int, reduced: bool, optimiser: str | None = None) -> Settings:
    """Return the settings of both; `reduced` computes in bfloat16."""
    asked = [f"max_steps={steps}", "warmup_steps=0"]
    asked += ["bf16=true"] if reduced else []
    asked += ["gradient_checkpointing=true"] if size.checkpointed else []
    asked += [f"optim={optimiser}"] if optimiser else []
    return resolve_settings(preset="quick", assignments=asked)


def agree(record: Any, what: str, bench: RandomBench) -> None:
    """Train a few steps by both, and compare φ."""
    _, shortcuts = probe(bench)
    _, reference = reference_pass(bench, rows=True)
    up, down = bench.pairs, bench.switched
    ours = tuple(
        our_pole(bench, pairs, scores, shortcuts)[2]
        for pairs, scores in ((up, reference), (down, reference.switched()))
    )
    theirs = tuple(
        plain_pole(bench, pairs, precompute=True, skip_prompts=True)[2] for pairs in (up, down)
    )
    record.add("agreement", what=what, cosine=cosine(ours, theirs), shortcuts=shortcuts.notes())


def compare(record: Any, size: Size, bench: RandomBench) -> None:
    """Time both; the totals are written before the variants are tried."""
    up, down = bench.pairs, bench.switched
    stages: dict[str, Stage] = {}

    def take(name: str, found: tuple[Any, ...]) -> tuple[Any, ...]:
        stages[name] = found[0]
        record.add("stages", shape=size.shape, stage=name, **asdict(found[0]))
        return found

    _, shortcuts = take("probe", probe(bench))
    _, reference = take("reference", reference_pass(bench, rows=True))
    _, losses, plus = take("positive pole", our_pole(bench, up, reference, shortcuts))
    _, _, minus = take("negative pole", our_pole(bench, down, reference.switched(), shortcuts))
    # The same tokens enter the head of TRL as on any GPU with Triton.
    plain = {"precompute": True, "skip_prompts": True}
    _, plain_losses, plain_plus = take("TRL, positive pole", plain_pole(bench, up, **plain))
    _, _, plain_minus = take("TRL, negative pole", plain_pole(bench, down, **plain))
    free()
    theirs = stages.pop("TRL, positive pole") + stages.pop("TRL, negative pole")
    ours = sum(stages.values(), Stage())
    record.add(
        "pair",
        shape=size.shape,
        pairs=len(up),
        steps=size.steps,
        checkpointed=size.checkpointed,
        seconds=ours.seconds,
        trl_seconds=theirs.seconds,
        of_trl=ours.seconds / theirs.seconds,
        bar=BAR,
        tokens=ours.tokens,
        trl_tokens=theirs.tokens,
        peak_bytes=ours.peak,
        trl_peak_bytes=theirs.peak,
        cosine=cosine((plus, minus), (plain_plus, plain_minus)),
        loss_difference=max(abs(a - b) for a, b in zip(losses, plain_losses, strict=True)),
        losses=losses,
        shortcuts=shortcuts.notes(),
    )
    del plus, minus, plain_plus, plain_minus
    if not size.checkpointed:
        slower = settings(size, steps=size.steps, reduced=DEVICE == "cuda", optimiser="adamw_torch")
        found = our_pole(replace(bench, settings=slower), up, reference, shortcuts)
        take("positive pole, AdamW not fused", found)


def mean_tokens(bench: Bench) -> float:
    """Return the mean number of tokens of a pair, its prompt counted once."""
    lengths = [
        len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in bench.pairs
    ]
    return sum(lengths) / len(lengths)
