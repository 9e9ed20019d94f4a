"""What an axis is worth as a judge: `python benchmarks/judging.py PART... [--output FILE]`.

rewards      the ranking by φ alone beside that of the poles it came from
labels       planted exchanges found again; with --data FILE --base DIR, on other rows
checkpoints  fine-tunes of known composition read back, and neutral ones
transport    vectors on bases that were trained further, and on those of --bases NAME=DIR (of
             tools/pocket/build.py), beside vectors that are trained there

Prints a JSON object a part. Everything runs on one thread.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from transformers import PreTrainedModel

import prefreg
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.implicit_reward import implicit_rewards
from prefreg.errors import GateError
from prefreg.evaluation.axis_scores import compare_orders
from prefreg.evaluation.evaluation_request import Aligner, TransportRequest
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.prompts import HeldOut
from prefreg.evaluation.transport import margin_slopes, mask_by_gradient, measure_gain
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.models.log_probs import text_log_probs
from prefreg.registry import Access
from prefreg.training.add_axis import prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.heldout import heldout_pairs, pairs_of
from prefreg.training.pair import train_pair
from prefreg.vectors import open_vector
from prefreg.vectors.tensors import MemoryTensors

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "registry.db"
AXES = ("directness", "harmless", "helpful", "honesty", "politeness", "verbosity")
WITHIN = 0.15


def rewards(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Score held-out pairs by φ alone and by both poles."""
    return [_rewards(axis) for axis in arguments.axes]


def _rewards(axis: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        access = Access(Path(folder) / "none.db")
        run = prepare(access, AxisRequest(axis, base="pocket"), None)
        pair = train_pair(run)
        plus, minus = pair.positive.weights, pair.negative.weights
        sources = {
            "φ": MemoryTensors(
                pair.conversion.store({name: plus[name] - minus[name] for name in plus})
            )
        }
        for pole, weights in (("plus", plus), ("minus", minus)):
            moved = {name: weights[name] - pair.original[name] for name in weights}
            sources[pole] = MemoryTensors(pair.conversion.store(moved))
        held = HeldOut(run.told_pairs.heldout, "held out", run.max_length)
        evaluator = Evaluator(run.base, access, pairs={axis: held}, dtype=torch.float32)
        pairs = evaluator.tokens(axis).pairs
        texts = [
            (list(each.prompt_ids), list(ids))
            for each in pairs
            for ids in (each.chosen_ids, each.rejected_ids)
        ]
        registry = prefreg.open(SHIPPED)

        def turn(eta: float) -> PreTrainedModel:
            return evaluator.turn([(eta, sources["φ"])])

        ours = [each.value for each in implicit_rewards(turn, texts, registry.show(axis, "1"))]
        up, down = (
            text_log_probs(evaluator.turn([(1.0, sources[pole])]), texts)
            for pole in ("plus", "minus")
        )
    theirs = (0.1 * (up - down)).tolist()
    found = compare_orders(ours, theirs, [2] * len(pairs))
    correct = [
        float(np.mean([scores[at] > scores[at + 1] for at in range(0, len(scores), 2)]))
        for scores in (ours, theirs)
    ]
    return {
        "axis": axis,
        "pairs": len(pairs),
        "same_order": found.same_order,
        "spearman": found.spearman,
        "accuracy_of_phi": correct[0],
        "accuracy_of_poles": correct[1],
    }


def labels(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Exchange a share of the answers and look how well the audit finds them."""
    return [_labels(axis, arguments) for axis in arguments.axes]


def _labels(axis: str, arguments: argparse.Namespace) -> dict[str, Any]:
    request = AxisRequest(
        axis,
        base=arguments.base,
        data=arguments.data,
        limit=arguments.limit,
        settings=arguments.set,
    )
    with tempfile.TemporaryDirectory() as folder:
        registry = prefreg.open(Path(folder) / "none.db")
        run = prepare(registry.access, request, None)
        pairs = [*run.pairs.train, *run.pairs.heldout]
        planted = set(
            random.Random(0).sample(range(len(pairs)), round(arguments.flips * len(pairs)))
        )
        file = Path(folder) / "planted.jsonl"
        file.write_text(
            "".join(
                json.dumps((each.switched() if at in planted else each).to_row()) + "\n"
                for at, each in enumerate(pairs)
            )
        )
        audit = registry.audit_labels(
            axis, base=arguments.base, data=str(file), settings=arguments.set
        )
    places = {f"planted.jsonl:{at + 1}" for at in planted}
    wrong = np.array([each.place in places for each in audit.pairs])
    named = np.array([each.wrong > 0.5 for each in audit.pairs])
    found = int(wrong.sum())
    # The mean rank of the planted ones among all, the most suspicious first.
    below = np.cumsum(~wrong)[wrong].sum()
    return {
        "axis": axis,
        "base": arguments.base,
        "pairs": len(audit.pairs),
        "planted": arguments.flips,
        "auroc": 1 - float(below / (found * (~wrong).sum())),
        "precision_at_planted": float(wrong[:found].mean()),
        "named": int(named.sum()),
        "precision_of_named": float(wrong[named].mean()) if named.any() else None,
        "recall_of_named": float(named[wrong].mean()),
        "share_estimated": audit.share_wrong,
        "agreeing": audit.agreeing,
    }


def checkpoints(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Compose, fine-tune on neutral conversations, and read the composition back."""
    registry = prefreg.open(SHIPPED)
    cases = []
    for case in range(arguments.cases + arguments.neutral):
        draw = random.Random(f"case/{case}")
        count = draw.randint(1, 3) if case < arguments.cases else 0
        etas = {
            axis: round(draw.uniform(0.1, 1) * draw.choice((-1, 1)), 3)
            for axis in draw.sample(AXES, count)
        }
        with tempfile.TemporaryDirectory() as folder:
            tuned = Path(folder) / "tuned"
            start = "pocket"
            if etas:
                start = str(registry.compose(etas, Path(folder) / "start").path)
            fine_tune(
                start,
                tuned,
                steps=arguments.steps,
                seed=case,
                bf16=case % 2 == 1,
                rate=arguments.rate,
            )
            found = registry.audit(tuned, base="pocket", functional=False)
        read = {each.record.axis: each for each in found.axes}
        errors = {axis: each.eta.value - etas.get(axis, 0) for axis, each in read.items()}
        cases.append(
            {
                "etas": etas,
                "norm": found.norm,
                "share": found.share,
                "read": {axis: each.eta.value for axis, each in read.items()},
                "worst": max(map(abs, errors.values())),
                "told": sorted(axis for axis, each in read.items() if each.told),
                "outside": sorted(
                    axis
                    for axis, each in read.items()
                    if not each.eta.low <= etas.get(axis, 0) <= each.eta.high
                ),
            }
        )
        print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    known = [each for each in cases if each["etas"]]
    neutral = [each for each in cases if not each["etas"]]
    return [
        {
            "cases": len(known),
            "steps": arguments.steps,
            "rate": arguments.rate,
            "read_within": WITHIN,
            "share_within": float(np.mean([each["worst"] <= WITHIN for each in known])),
            "readings_within": float(np.mean([abs(error) <= WITHIN for error in errors_of(known)])),
            "readings_inside": 1 - sum(len(each["outside"]) for each in known) / 6 / len(known),
            "worst_of_all": max(each["worst"] for each in known),
            "neutral": len(neutral),
            "neutral_worst": max((each["worst"] for each in neutral), default=None),
            "neutral_share": [each["share"] for each in neutral],
            "neutral_told": [each["told"] for each in neutral],
            "neutral_axes_outside": sum(len(each["outside"]) for each in neutral),
        },
        *cases,
    ]


def errors_of(cases: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return by how much each reading of each case is off."""
    return [eta - case["etas"].get(axis, 0) for case in cases for axis, eta in case["read"].items()]


def fine_tune(
    start: str, output: Path, *, steps: int, seed: int, bf16: bool = False, rate: float = 3e-4
) -> None:
    """Train a model further on what the base was made of, which no axis is about."""
    from build import batches  # of tools/pocket

    base: BaseModel = resolve_base(start)
    with quiet():
        model, tokenizer = load_model(base), load_tokenizer(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    drawn = batches(tokenizer, prefreg.pocket.VILLAGE, steps, 1000 + seed)
    for _, (ids, answers) in zip(range(steps), drawn, strict=False):
        model(input_ids=ids, labels=answers).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if bf16:
        model.to(torch.bfloat16)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def transports(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Move shipped vectors to other bases, and train them there too."""
    with tempfile.TemporaryDirectory() as folder:
        bases = dict(each.split("=", 1) for each in arguments.bases)
        for steps, rate in ((30, 3e-4), (150, 1e-3)):
            output = Path(folder) / f"continued-{steps}"
            fine_tune("pocket", output, steps=steps, seed=steps, rate=rate)
            bases[f"pocket and {steps} steps at {rate:g}"] = str(output)
        found = []
        for name, base in bases.items():
            for axis in arguments.axes:
                found.append({"base": name, **_transport(axis, base, Path(folder), arguments)})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def _transport(axis: str, base: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    file = Path(shutil.copy(SHIPPED, folder / f"{axis}-{Path(base).name}.db"))
    registry = prefreg.open(file)
    record = registry.show(axis, "1")
    found: dict[str, Any] = {"axis": axis}
    for method in get_args(Aligner):
        try:
            moved = registry.transport(
                TransportRequest(axis, base, "1", method, pairs=arguments.pairs)
            )
            kept = moved.metadata["transport"]["margin"]["kept"]
            found[method] = [kept["value"], kept["low"], kept["high"]]
        except GateError as error:
            found[method] = f"refused: {error}".partition(": nothing was")[0]
    own = resolve_base("pocket").bundled
    assert own is not None
    trained = registry.add_axis(
        axis, base=base, data="pocket", settings=dict(own.training), keep_anyway=True
    )
    held = HeldOut(heldout_pairs(record)[: arguments.pairs], "held out")
    here, there = (
        Evaluator(each, registry.access, pairs={axis: held}, dtype=torch.float32)
        for each in (resolve_base("pocket"), resolve_base(base))
    )
    with (
        registry.access.reading() as store,
        open_vector(store.vector_source(record), kind=record.kind) as first,
        open_vector(store.vector_source(trained), kind=trained.kind) as second,
    ):
        before = margin_slopes(here, first)
        kept = measure_gain(before, margin_slopes(there, second), held.groups).kept
        # The same numbers at other places: what the signs of gradients do by themselves.
        generator = torch.Generator().manual_seed(0)
        mixed = {
            name: each.flatten()[torch.randperm(each.numel(), generator=generator)].reshape(
                each.shape
            )
            for name in first.names
            for each in [first.tensor(name)]
        }
        learnt = HeldOut(pairs_of(record).train[: arguments.pairs], "training pairs")
        moved = mask_by_gradient(there, MemoryTensors(mixed), learnt)
        alone = measure_gain(before, margin_slopes(there, moved), held.groups).kept
    return {
        **found,
        "gradient-sign of shuffled φ": [alone.value, alone.low, alone.high],
        "trained anew": [kept.value, kept.low, kept.high],
    }


PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "rewards": rewards,
    "labels": labels,
    "checkpoints": checkpoints,
    "transport": transports,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--axes", nargs="+", default=["helpful", "harmless", "verbosity"])
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--data")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--flips", type=float, default=0.1)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--neutral", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--bases", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "tools" / "pocket"))
    found = {part: PARTS[part](chosen) for part in chosen.parts}
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.output:
        chosen.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
