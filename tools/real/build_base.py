"""Train a small base from nothing on a pack of real text.

`python tools/real/build_base.py --data PACK --output DIR` learns a tokenizer, reads everything as
text, ends on instruction rows with the loss on their answers alone, and measures what was held
out. Stopped, the same command goes on from its last checkpoint.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from texts import Corpus, read_corpus
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocabulary import Tokens, encode, make_tokenizer, pack, save_tokenizer
from yardstick import Ngrams

MUON_RATE = 0.02
ADAMW_RATE = 3e-3
WARMUP = 40
SIZES = {"3M": (192, 512, 6, 3), "4M": (224, 608, 6, 4), "6M": (256, 704, 6, 4)}
"""Width, width of the hidden layer, layers and heads."""


def make_model(tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> LlamaForCausalLM:
    """Make the untrained model."""
    width, hidden, layers, heads = SIZES[options.size]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=True,
        initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Give the matrices between the layers to Muon and the rest to AdamW."""
    named = dict(model.named_parameters())
    matrices = [each for name, each in named.items() if each.ndim == 2 and "embed" not in name]
    others = [each for name, each in named.items() if each.ndim == 1 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.0, momentum=0.95),
        torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def stage_rows(
    documents: list[Tokens], options: argparse.Namespace, *, steps: int, chat: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return one batch a step, every document in its turn, shuffled anew in every pass."""
    draw, batches = random.Random(f"{options.seed}/{chat}"), []
    while len(batches) < steps:
        shuffled = draw.sample(documents, len(documents))
        ids, labels = pack(shuffled, length=options.context, answers_only=chat)
        for start in range(0, len(ids) - options.batch + 1, options.batch):
            batches.append(
                (ids[start : start + options.batch], labels[start : start + options.batch])
            )
    return batches[:steps]


def train(
    model: LlamaForCausalLM, batches: list[tuple[Tensor, Tensor]], options: argparse.Namespace
) -> None:
    """Train the model in place, from the last checkpoint where there is one."""
    optimizers, steps = make_optimizers(model), len(batches)
    rates = [group["lr"] for each in optimizers for group in each.param_groups]
    path, first = partial(options) / "checkpoint.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    model.train()
    started, total = time.monotonic(), 0.0
    for step in range(first, steps):
        ids, labels = batches[step]
        factor = min((step + 1) / WARMUP, (steps - step) / (steps - WARMUP))
        groups = [group for each in optimizers for group in each.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        done = step + 1
        if done % 25 == 0:
            speed = (done - first) * ids.numel() / (time.monotonic() - started)
            print(f"step {done}/{steps}  loss {total / 25:.4f}  {speed:.0f} tokens/s", flush=True)
            total = 0.0
        if done % options.checkpoint == 0:
            save(path, model, optimizers, done)


def save(
    path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Write a checkpoint whole or not at all."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [each.state_dict() for each in optimizers],
    }
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


def partial(options: argparse.Namespace) -> Path:
    """Return the folder of unfinished work."""
    folder: Path = options.output.with_name(options.output.name + ".partial")
    return folder


@torch.inference_mode()
def model_loss(model: LlamaForCausalLM, documents: list[Tokens], *, answers: bool) -> float:
    """Return the mean nats of every held-out token but the first, or of those of answers."""
    model.eval()
    total, tokens = 0.0, 0
    for ids, marks in sorted(documents, key=lambda each: len(each[0])):
        # Nothing after the model's context is scored: the rows are cut, and the same for all.
        row = torch.tensor([ids])
        nats = torch.nn.functional.cross_entropy(
            model(input_ids=row).logits[0, :-1], row[0, 1:], reduction="none"
        )
        chosen = nats[torch.tensor(marks[1:])] if answers else nats
        total, tokens = total + chosen.sum().item(), tokens + chosen.numel()
    return total / tokens


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    seen: list[Tokens],
    corpus: Corpus,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return the held-out perplexities of the model and of its yardsticks."""
    counts = Ngrams([ids for ids, _ in seen], len(tokenizer))
    found: dict[str, Any] = {"uniform": len(tokenizer)}
    for name, documents in corpus.held_out.items():
        drawn = random.Random(0).sample(documents, min(options.held_out, len(documents)))
        tokens = [
            (ids[: options.context], marks[: options.context])
            for ids, marks in encode(tokenizer, drawn)
        ]
        ids = [each for each, _ in tokens]
        found[name] = {
            "documents": len(tokens),
            "tokens": sum(map(len, ids)) - len(ids),
            "model": math.exp(model_loss(model, tokens, answers=False)),
            "model, answers": math.exp(model_loss(model, tokens, answers=True)),
            **{f"{n}-gram": math.exp(counts.loss(ids, n)) for n in (1, 2, 3)},
        }
        print(name, found[name], flush=True)
    return found


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sft/ and prefs/")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new base")
    parser.add_argument("--size", choices=SIZES, default="4M")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8, help="rows of one full context")
    parser.add_argument("--text-steps", type=int, default=1100)
    parser.add_argument("--chat-steps", type=int, default=200)
    parser.add_argument("--checkpoint", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--held-out", type=int, default=200, help="documents a file to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists. Remove it, or name another --output.")
    return options


def main() -> None:
    """Build the base."""
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    work = partial(options)
    corpus = read_corpus(options.data)
    if not (work / "tokenizer_config.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        learned = make_tokenizer(corpus.text, size=options.vocabulary, context=options.context)
        save_tokenizer(learned, work)
    tokenizer = AutoTokenizer.from_pretrained(work)
    text, chat = encode(tokenizer, corpus.text), encode(tokenizer, corpus.chat)
    model = make_model(tokenizer, options)
    print(
        f"{model.num_parameters():,} parameters; {len(text)} documents of "
        f"{sum(len(ids) for ids, _ in text):,} tokens, {corpus.excluded} left out for their "
        f"held-out question; {len(chat)} of chat with {sum(len(ids) for ids, _ in chat):,}",
        flush=True,
    )
    batches = stage_rows(text, options, steps=options.text_steps, chat=False)
    batches += stage_rows(chat, options, steps=options.chat_steps, chat=True)
    train(model, batches, options)
    model.save_pretrained(work)
    found = measure(model, tokenizer, text, corpus, options)
    settings = {key: str(value) for key, value in vars(options).items() if key != "data"}
    report = {"settings": settings, "perplexity": found}
    (work / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (work / "checkpoint.pt").unlink(missing_ok=True)
    work.rename(options.output)


if __name__ == "__main__":
    main()
