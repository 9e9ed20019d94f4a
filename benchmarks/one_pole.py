"""Is the − pole worth its training? φ = θ₊ − θ₋ against φ₊ = θ₊ − θ_base, on the bundled model.

    python benchmarks/one_pole.py --axis helpful --output OUT

Norms do not say when two vectors do equally much, so both are turned through many η and every
setting is placed by two figures of the same sampled answers: the effect (the share that answers a
benign question or refuses an unsafe one, or the mean words of a reply) and the price,
KL(π_η ‖ π_0), the sum over the tokens of an answer drawn from π_η of the exact divergence of the
next token. At equal price the larger effect is better.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg import pocket
from prefreg.axes import Message
from prefreg.checkpoints import on_disk_names, resolve_base
from prefreg.data.rendering import encode_prompt, end_id
from prefreg.evaluation.sampling import Sampling, sample_answers
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.flows.access import Access
from prefreg.flows.add_axis import prepare
from prefreg.flows.axis_request import AxisRequest
from prefreg.flows.steering import make_dials
from prefreg.training.loading import load_model, load_tokenizer, quiet
from prefreg.training.pair import train_pair
from prefreg.vectors import MemoryTensors

# φ is about twice as long as φ₊, so φ₊ is turned twice as far.
SCALES = (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5)
FACTORS = {"φ": 1.0, "φ₊": 2.0}

EFFECTS: Mapping[str, Callable[[pocket.Verdict], float]] = {
    "helpful": lambda verdict: float(verdict.kind == "answer"),
    "harmless": lambda verdict: float(verdict.kind == "refusal"),
    "verbosity": lambda verdict: float(verdict.words),
}
KINDS = {"helpful": "benign", "harmless": "unsafe", "verbosity": "benign"}


def train_vectors(axis: str, seed: int, folder: Path) -> dict[str, MemoryTensors]:
    """Train one pair and return φ and φ₊, so that both have the same positive pole."""
    request = AxisRequest(axis, base="pocket", seed=seed)
    run = prepare(Access(folder / "none.db"), request, None)
    result = train_pair(
        base=run.base, axis=run.installed.axis, pairs=run.pairs, settings=run.settings, seed=seed
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in result.base.items()}
    names = on_disk_names(shapes, result.prefix, run.base.checkpoint)
    plus, minus, base = result.positive.weights, result.negative.weights, result.base
    return {
        "φ": MemoryTensors({names[name]: plus[name] - minus[name] for name in plus}),
        "φ₊": MemoryTensors({names[name]: plus[name] - base[name] for name in plus}),
    }


@torch.inference_mode()
def divergence(
    turned: PreTrainedModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
) -> list[float]:
    """Return KL(π_η ‖ π_0) along each answer, in nats."""
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        head = list(encode_prompt((Message("user", prompt),), tokenizer))
        tail = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end_id(tokenizer)]
        ids = torch.tensor([head + tail])
        places = slice(len(head) - 1, len(head) + len(tail) - 1)
        one, other = (
            model(input_ids=ids).logits[0, places].double().log_softmax(-1)
            for model in (turned, base)
        )
        found.append(float((one.exp() * (one - other)).sum()))
    return found


def measure(axis: str, vectors: Mapping[str, MemoryTensors], prompts: int) -> list[dict[str, Any]]:
    """Measure effect and price of every setting."""
    found = resolve_base("pocket")
    with quiet():
        model, base, tokenizer = load_model(found), load_model(found), load_tokenizer(found)
    base.train(False)
    dials = make_dials(model, found)
    asked = pocket.prompts(KINDS[axis], split="test", limit=prompts, seed=0)
    settings: list[tuple[str, float]] = [("base", 0.0)]
    settings += [(name, FACTORS[name] * scale) for name in vectors for scale in SCALES]
    points = []
    for name, eta in settings:
        dials.apply([(eta, vectors[name])] if eta else [])
        answers = sample_answers(model, tokenizer, asked, Sampling(96, 1.0, seed=0))
        verdicts = [pocket.score(*item) for item in zip(asked, answers, strict=True)]
        price = divergence(model, base, tokenizer, asked, answers)
        points.append(
            {
                "vector": name,
                "eta": eta,
                "effect": asdict(estimate([EFFECTS[axis](verdict) for verdict in verdicts])),
                "kl": asdict(estimate(price)),
                "malformed": sum(each.kind == "malformed" for each in verdicts) / prompts,
            }
        )
        print(f"{name} {eta:g}", flush=True)
    return points


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean over prompts."""
    return grouped_mean(values, range(len(values)), draws=2000)


def at_price(points: Sequence[Mapping[str, Any]], name: str, price: float, sign: int) -> float:
    """Interpolate the effect of a vector at a price, on one side of 0; NaN beyond its settings."""
    side = [(0.0, points[0]["effect"]["value"])]
    side += [
        (point["kl"]["value"], point["effect"]["value"])
        for point in points
        if point["vector"] == name and point["eta"] * sign > 0
    ]
    side.sort()
    for (low, one), (high, other) in pairwise(side):
        if low <= price <= high and high > low:
            return float(one + (other - one) * (price - low) / (high - low))
    return math.nan


def tables(axis: str, points: Sequence[Mapping[str, Any]]) -> str:
    """Write every setting, and both vectors at the same price, as markdown."""
    lines = ["| vector | η | effect | KL, nats | malformed |", "|---|---|---|---|---|"]
    for point in points:
        effect, price = (Estimate(**point[key]) for key in ("effect", "kl"))
        lines.append(
            f"| {point['vector']} | {point['eta']:g} | {effect} | {price} "
            f"| {point['malformed']:.3f} |"
        )
    lines += [
        "",
        "| KL, nats | φ, η > 0 | φ₊, η > 0 | φ, η < 0 | φ₊, η < 0 |",
        "|---|---|---|---|---|",
    ]
    for price in (0.5, 1.0, 2.0, 4.0, 8.0):
        cells = [at_price(points, name, price, sign) for sign in (1, -1) for name in FACTORS]
        if not all(map(math.isnan, cells)):
            shown = ["-" if math.isnan(cell) else f"{cell:.2f}" for cell in cells]
            lines.append(f"| {price:g} | {' | '.join(shown)} |")
    return "\n".join([f"#### {axis}\n", *lines]) + "\n"


def draw(axis: str, points: Sequence[Mapping[str, Any]], destination: Path) -> None:
    """Draw effect against price."""
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for name, colour in zip(FACTORS, ("#0072B2", "#D55E00"), strict=True):
        for sign, line in ((1, "-"), (-1, "--")):
            side = [
                point for point in points if point["vector"] == name and point["eta"] * sign > 0
            ]
            side = sorted([points[0], *side], key=lambda point: abs(point["eta"]))
            panel.plot(
                [point["kl"]["value"] for point in side],
                [point["effect"]["value"] for point in side],
                line,
                marker="o",
                markersize=4,
                color=colour,
                label=f"{name}, η {'>' if sign > 0 else '<'} 0",
            )
    panel.set_xlabel("KL(π_η ‖ π_0) of an answer, nats")
    panel.set_ylabel("words" if axis == "verbosity" else "share of answers")
    panel.set_title(axis)
    panel.set_xscale("symlog", linthresh=0.5)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)
    figure.savefig(destination, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one pair and compare its two vectors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axis", choices=EFFECTS, default="helpful")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    vectors = train_vectors(options.axis, options.seed, options.output)
    points = measure(options.axis, vectors, options.prompts)
    stem = options.output / f"one_pole_{options.axis}"
    stem.with_suffix(".json").write_text(json.dumps(points, indent=1) + "\n", "utf-8")
    draw(options.axis, points, stem.with_suffix(".png"))
    print(tables(options.axis, points))


if __name__ == "__main__":
    main()
