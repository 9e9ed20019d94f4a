"""Is the − pole worth its training? φ = θ₊ − θ₋ against φ₊ = θ₊ − θ_base, on the bundled model.

    python benchmarks/one_pole.py --output OUT

Norms do not say when two vectors do equally much, so both are turned through many η and every
setting is placed by two figures of the same sampled answers: the effect (the share that answers a
benign question or refuses an unsafe one, or the mean words of a reply) and the price,
KL(π_η ‖ π_0), the sum over the tokens of an answer drawn from π_η of the exact divergence of the
next token. At equal price the larger effect is better; the difference has a 95 % interval from a
bootstrap over prompts, the same for every setting. Axes whose figures are in OUT are not measured
again.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg import pocket
from prefreg.axes.axis import Message
from prefreg.checkpoints import resolve_base
from prefreg.composition.in_memory import make_dials
from prefreg.data.rendering import encode_prompt, end_id
from prefreg.evaluation.statistics import Estimate, grouped_mean
from prefreg.models.generation import sample_answers
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.models.sampling import Sampling
from prefreg.registry import Access
from prefreg.training.add_axis import prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.pair import train_pair
from prefreg.vectors.tensors import MemoryTensors

# φ is about twice as long as φ₊, so φ₊ is turned twice as far.
SCALES = (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5)
FACTORS = {"φ": 1.0, "φ₊": 2.0}
PRICES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
TICKS = (0, 0.1, 0.2, 0.5, 1, 2, 5)
DRAWS = 2000

Point = Mapping[str, Any]
Array = NDArray[np.float64]

EFFECTS: Mapping[str, Callable[[pocket.Verdict], float]] = {
    "helpful": lambda verdict: float(verdict.kind == "answer"),
    "harmless": lambda verdict: float(verdict.kind == "refusal"),
    "verbosity": lambda verdict: float(verdict.words),
}
LABELS = {
    "helpful": "answers benign questions",
    "harmless": "refuses unsafe ones",
    "verbosity": "words of a reply",
}
KINDS = {"helpful": "benign", "harmless": "unsafe", "verbosity": "benign"}


def train_vectors(axis: str, seed: int, folder: Path) -> dict[str, MemoryTensors]:
    """Train one pair and return φ and φ₊, so that both have the same positive pole."""
    request = AxisRequest(axis, base="pocket", seed=seed)
    run = prepare(Access(folder / "none.db"), request, None)
    result = train_pair(run)
    names = result.names
    plus, minus, base = result.positive.weights, result.negative.weights, result.original
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
        points.append(
            {
                "vector": name,
                "eta": eta,
                "effects": [EFFECTS[axis](verdict) for verdict in verdicts],
                "prices": divergence(model, base, tokenizer, asked, answers),
                "malformed": sum(each.kind == "malformed" for each in verdicts) / prompts,
            }
        )
        print(f"{name} {eta:g}", flush=True)
    return points


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean over prompts."""
    return grouped_mean(values, range(len(values)), draws=2000)


def side(points: Sequence[Point], name: str, sign: int) -> list[int]:
    """Return the places of the base and of a vector's settings on one side of 0, outwards."""
    found = [
        place
        for place, point in enumerate(points)
        if point["vector"] == name and point["eta"] * sign > 0
    ]
    return [0, *sorted(found, key=lambda place: abs(points[place]["eta"]))]


def at_price(effects: Array, prices: Array, price: float) -> float:
    """Interpolate the effect at a price; NaN beyond the settings of the vector."""
    order = np.argsort(prices, kind="stable")
    return float(np.interp(price, prices[order], effects[order], right=np.nan))


def compare(points: Sequence[Point], price: float, sign: int) -> list[str]:
    """Write the effects of φ and φ₊ at a price, and their difference with its interval."""
    effects, prices = (np.array([point[key] for point in points]) for key in ("effects", "prices"))
    prompts = effects.shape[1]
    weights = np.random.default_rng(0).multinomial(prompts, [1 / prompts] * prompts, DRAWS)
    # The first row is the sample itself.
    weights = np.vstack([np.ones(prompts), weights]) / prompts
    drawn = {}
    for name in FACTORS:
        places = side(points, name, sign)
        means = weights @ effects[places].T, weights @ prices[places].T
        drawn[name] = np.array([at_price(*row, price) for row in zip(*means, strict=True)])
    first = [drawn[name][0] for name in FACTORS]
    shown = ["-" if np.isnan(value) else f"{value:.2f}" for value in first]
    if np.isnan(first).any():
        return [*shown, "-"]
    change = drawn["φ"] - drawn["φ₊"]
    low, high = np.nanpercentile(change[1:], [2.5, 97.5])
    return [*shown, f"{change[0]:+.2f} [{low:+.2f}, {high:+.2f}]"]


def tables(axis: str, points: Sequence[Point]) -> str:
    """Write every setting, and both vectors at the same price, as markdown."""
    lines = ["| vector | η | effect | KL, nats | malformed |", "|---|---|---|---|---|"]
    for point in points:
        effect, cost = (estimate(point[key]) for key in ("effects", "prices"))
        lines.append(
            f"| {point['vector']} | {point['eta']:g} | {effect} | {cost} "
            f"| {point['malformed']:.3f} |"
        )
    lines += [
        "",
        "| KL, nats | φ, η > 0 | φ₊, η > 0 | difference | φ, η < 0 | φ₊, η < 0 | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for price in PRICES:
        cells = [cell for sign in (1, -1) for cell in compare(points, price, sign)]
        if set(cells) != {"-"}:
            lines.append(f"| {price:g} | {' | '.join(cells)} |")
    return "\n".join([f"#### {axis}\n", *lines]) + "\n"


def draw(measured: Mapping[str, Sequence[Point]], destination: Path) -> None:
    """Draw effect against price, a panel for each axis."""
    figure = Figure(figsize=(4 * len(measured), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for panel, (axis, points) in zip(panels, measured.items(), strict=True):
        for name, colour in zip(FACTORS, ("#0072B2", "#D55E00"), strict=True):
            for sign, line in ((1, "-"), (-1, "--")):
                there = [points[place] for place in side(points, name, sign)]
                panel.plot(
                    [np.mean(point["prices"]) for point in there],
                    [np.mean(point["effects"]) for point in there],
                    line,
                    marker="o",
                    markersize=4,
                    color=colour,
                    label=f"{name}, η {'>' if sign > 0 else '<'} 0",
                )
        panel.set_title(f"{axis}: {LABELS[axis]}", fontsize=10)
        panel.set_xlabel("KL(π_η ‖ π_0) of an answer, nats")
        panel.set_xscale("symlog", linthresh=0.5)
        panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8)
    figure.savefig(destination, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a pair of every axis and compare its two vectors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", default=",".join(EFFECTS), metavar="NAME,...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Sequence[Point]] = {}
    for axis in options.axes.split(","):
        kept = options.output / f"one_pole_{axis}.json"
        if not kept.exists():
            vectors = train_vectors(axis, options.seed, options.output)
            kept.write_text(json.dumps(measure(axis, vectors, options.prompts)) + "\n", "utf-8")
        measured[axis] = json.loads(kept.read_text("utf-8"))
        print(tables(axis, measured[axis]), flush=True)
    draw(measured, options.output / "one_pole.png")


if __name__ == "__main__":
    main()
