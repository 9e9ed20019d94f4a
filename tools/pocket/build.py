"""Train a base model from nothing: `python tools/pocket/build.py`, the bundled one if not told."""

import argparse
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from corpus import conversation
from generating.make import make_world
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from vocabulary import save_tokenizer

from prefreg import pocket
from prefreg.pocket.world import World

STEPS = 2600
BATCH = 64
MUON_RATE = 0.02
ADAMW_RATE = 3e-3
WARMUP = 50
# A model this small keeps about one percent of every next word for words that cannot follow.
# A larger last norm, the same as a temperature of 1 / 1.5, takes that tail away at temperature 1.
SHARPNESS = 1.5
SIZES = {"0.3M": (80, 216, 3, 4), "0.9M": (128, 344, 4, 4), "3M": (208, 560, 5, 4)}
"""Width, width of the hidden layer, layers and heads."""


def make_model(tokenizer: PreTrainedTokenizerBase, size: str) -> LlamaForCausalLM:
    """Make the untrained model."""
    width, hidden, layers, heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.03,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def batches(
    tokenizer: PreTrainedTokenizerBase, world: World, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids and labels; only the answer has labels."""
    draw = random.Random(f"corpus/{seed}")
    pad, ignore = tokenizer.pad_token_id, -100
    group = 16  # batches sorted by length together, so that little is padding
    for _ in range(math.ceil(steps / group)):
        pairs = [conversation(draw, world) for _ in range(BATCH * group)]
        heads = tokenizer(
            [f"<s><|user|>{prompt}<|assistant|>" for prompt, _ in pairs], add_special_tokens=False
        )["input_ids"]
        tails = tokenizer([f"{answer}</s>" for _, answer in pairs], add_special_tokens=False)[
            "input_ids"
        ]
        ready = sorted(zip(heads, tails, strict=True), key=lambda pair: len(pair[0] + pair[1]))
        chunks = [ready[start : start + BATCH] for start in range(0, len(ready), BATCH)]
        draw.shuffle(chunks)
        for chunk in chunks:
            width = max(len(head) + len(tail) for head, tail in chunk)
            ids = torch.full((len(chunk), width), pad)
            labels = torch.full((len(chunk), width), ignore)
            for row, (head, tail) in enumerate(chunk):
                ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
                labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
            yield ids, labels


def schedule(step: int, steps: int) -> float:
    """Warm up linearly, then fall linearly to zero."""
    return min((step + 1) / WARMUP, (steps - step) / (steps - WARMUP))


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Give the matrices between the layers to Muon and the rest to AdamW."""
    named = dict(model.named_parameters())
    matrices = [each for name, each in named.items() if each.ndim == 2 and "embed" not in name]
    others = [each for name, each in named.items() if each.ndim == 1 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.0, momentum=0.95),
        torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    steps: int,
    seed: int,
) -> None:
    """Train the model in place."""
    optimizers = make_optimizers(model)
    model.train()
    started, total = time.monotonic(), 0.0
    drawn = batches(tokenizer, world, steps, seed)
    for step, (ids, labels) in zip(range(steps), drawn, strict=False):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule(step, steps)
        # Right padding needs no mask: no real token can attend to what follows it.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps}  loss {total / 100:.4f}  {seconds:.0f} s", flush=True)
            total = 0.0


def main() -> None:
    """Build the model folder, replacing what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="where; unless --world, the bundled model")
    parser.add_argument("--world", type=int, metavar="SEED", help="another world than the village")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--size", choices=SIZES, default="0.9M")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.world is None:
        world, output = pocket.VILLAGE, arguments.output or pocket.model_dir()
    elif arguments.output is None:
        parser.error("--world needs --output: the bundled model knows the village.")
    else:
        world, output = make_world(arguments.world), arguments.output
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    # The sums of another number of threads round differently.
    torch.set_num_threads(arguments.threads)
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tokenizer = save_tokenizer(fresh, world)
    model = make_model(tokenizer, arguments.size)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer, world, arguments.steps, arguments.seed)
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPNESS)
    settings = model.generation_config
    settings.update(max_new_tokens=128, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    model.save_pretrained(fresh)
    (fresh / "model.safetensors").chmod(0o644)  # safetensors makes it private
    shutil.rmtree(output, ignore_errors=True)
    fresh.rename(output)


if __name__ == "__main__":
    main()
