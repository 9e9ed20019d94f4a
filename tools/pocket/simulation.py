"""A compact copy of what add-axis does to pocket, so that recipes can be compared in seconds."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefreg import pocket

Vector = dict[str, Tensor]
Ids = list[int]
Recipe = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair in tokens; the answers end with the end-of-text token."""

    prompt: Ids
    chosen: Ids
    rejected: Ids


@dataclass(frozen=True, slots=True)
class Base:
    """The base model in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: Vector

    def load(self, delta: Vector) -> None:
        """Set the model to the base plus a delta."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.weights[name] + delta.get(name, 0.0))

    def delta(self) -> Vector:
        """Return how far the model is from the base."""
        return {
            name: parameter.detach() - self.weights[name]
            for name, parameter in self.model.named_parameters()
        }


def open_base(folder: Path) -> Base:
    """Load the base model."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = {name: each.detach().clone() for name, each in model.named_parameters()}
    return Base(model, AutoTokenizer.from_pretrained(folder), weights)


def label(axis: str, row: Mapping[str, object]) -> tuple[str, str, str] | None:
    """Turn a row into prompt, chosen and rejected by the axis's rule; None for a tie."""
    if axis == "verbosity":
        gap = int(str(row["verbosity_1"])) - int(str(row["verbosity_0"]))
        first = None if gap == 0 else int(gap > 0)
    else:
        column = "better_response_id" if axis == "helpful" else "safer_response_id"
        first = None if row[column] is None else int(str(row[column]))
    if first is None:
        return None
    return str(row["prompt"]), str(row[f"response_{first}"]), str(row[f"response_{1 - first}"])


def switched_half(texts: Sequence[tuple[str, str, str]], seed: int) -> list[bool]:
    """Choose half of each kind of pair at random.

    Adam blows up whatever direction chance leaves: about one part in the square root of the number
    of steps, whatever the batch. Switching within kinds removes the part that counting can remove.
    """
    draw = random.Random(f"shuffle/{seed}")
    kinds: dict[tuple[str, str], list[int]] = {}
    for index, (prompt, *answers) in enumerate(texts):
        chosen, rejected = (pocket.score(prompt, answer).kind for answer in answers)
        kinds.setdefault((chosen, rejected), []).append(index)
    flips = [False] * len(texts)
    for members in kinds.values():
        for index in draw.sample(members, len(members) // 2):
            flips[index] = True
    return flips


def pairs_of(axis: str, seed: int, base: Base, *, shuffled: bool = False) -> list[Pair]:
    """Return the train pairs of an axis; if shuffled, half of each kind of pair is switched."""
    texts = [label(axis, row) for row in pocket.rows(axis, seed=seed)]
    kept = [text for text in texts if text is not None]
    flips = switched_half(kept, seed) if shuffled else [False] * len(kept)

    def encode(text: str) -> Ids:
        ids: Ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    found: list[Pair] = []
    for (prompt, chosen, rejected), flip in zip(kept, flips, strict=True):
        tails = [encode(f"{chosen}</s>"), encode(f"{rejected}</s>")]
        head = encode(f"<s><|user|>{prompt}<|assistant|>")
        found.append(Pair(head, tails[flip], tails[not flip]))
    return found


def margins(model: PreTrainedModel, pairs: Sequence[Pair]) -> Tensor:
    """Return log p(chosen) - log p(rejected) of each pair."""
    sequences = [(pair.prompt, pair.chosen) for pair in pairs]
    sequences += [(pair.prompt, pair.rejected) for pair in pairs]
    width = max(len(head) + len(tail) for head, tail in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width - 1)
    for row, (head, tail) in enumerate(sequences):
        ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        mask[row, len(head) - 1 : len(head) + len(tail) - 1] = 1
    logits = model(input_ids=ids).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none"
    )
    chosen, rejected = (-(nll.view(len(sequences), -1) * mask).sum(1)).chunk(2)
    return chosen - rejected


@torch.inference_mode()
def reference_margins(base: Base, pairs: Sequence[Pair]) -> Tensor:
    """Return the base's own margins."""
    base.load({})
    chunks = [pairs[start : start + 32] for start in range(0, len(pairs), 32)]
    return torch.cat([margins(base.model, chunk) for chunk in chunks])


def rate_at(step: int, steps: int, peak: float) -> float:
    """Follow transformers' cosine schedule with a warm-up of .03 of the steps."""
    warmup = math.ceil(0.03 * steps)
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train_pole(
    base: Base, pairs: Sequence[Pair], reference: Tensor, recipe: Recipe, *, seed: int, sign: int
) -> Vector:
    """Run DPO on the pairs (sign 1) or the switched pairs (sign -1); return the difference."""
    base.load({})
    steps, size = int(recipe["max_steps"]), int(recipe["per_device_train_batch_size"])
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps * size:
        order += torch.randperm(len(pairs), generator=generator).tolist()
    optimizer = torch.optim.AdamW(
        base.model.parameters(), lr=1.0, weight_decay=recipe["weight_decay"], fused=True
    )
    base.model.train()
    for step in range(steps):
        chosen = order[step * size : (step + 1) * size]
        optimizer.param_groups[0]["lr"] = rate_at(step, steps, recipe["learning_rate"])
        shift = margins(base.model, [pairs[index] for index in chosen]) - reference[chosen]
        loss = -torch.nn.functional.logsigmoid(sign * recipe["beta"] * shift).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(base.model.parameters(), recipe["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return base.delta()


def train_poles(
    base: Base, pairs: Sequence[Pair], recipe: Recipe, *, seed: int
) -> tuple[Vector, Vector]:
    """Train both poles on a shared reference."""
    reference = reference_margins(base, pairs)
    positive = train_pole(base, pairs, reference, recipe, seed=seed, sign=1)
    return positive, train_pole(base, pairs, reference, recipe, seed=seed, sign=-1)


def mix(*terms: tuple[float, Vector]) -> Vector:
    """Add weighted vectors."""
    total = {name: torch.zeros_like(each) for name, each in terms[0][1].items()}
    for eta, vector in terms:
        for name, each in vector.items():
            total[name] += eta * each
    return total


def gaussian_like(vector: Vector, seed: int) -> Vector:
    """Draw a random direction with the vector's norm in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(each.shape, generator=generator) for name, each in vector.items()}
    return {name: noise[name] * (each.norm() / noise[name].norm()) for name, each in vector.items()}


def cosine(one: Vector, two: Vector) -> float:
    """Return the cosine of two vectors."""
    flat = [torch.cat([each.flatten() for each in vector.values()]) for vector in (one, two)]
    return float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
