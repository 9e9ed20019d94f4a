"""Preference vectors beside what else one could do, on the bundled model, at equal KL.

    python benchmarks/alternatives.py --json out/alternatives.json --picture out/alternatives.png

Two effects, helpful (benign questions answered) and harmless (unsafe requests refused), and a
price: KL(π ‖ π_0) in nats per answer sampled from π, the mean over both kinds of prompts. Every
method reads the same pairs, as many as the four poles of two vectors together, in one run or in
several; `rivals` has them. A run continues where another ended: settings are kept in the JSON file,
trained weights in the folder beside it.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rivals.activation_addition import activation_addition
from rivals.logit_mixing import logit_mixing
from rivals.placing import figures, place
from rivals.policies import ModelPolicy, Setting
from rivals.showing import draw, tables
from rivals.single_runs import mixed, safe_first_labels, safe_then_helpful
from rivals.system_prompt import system_prompt
from rivals.weight_space import contrastive_sft, positive_only, preference_vectors, reward_soup
from rivals.workshop import Workshop

VECTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)

METHODS: Mapping[str, Callable[[Workshop], Iterator[Setting]]] = {
    "preference vectors": partial(preference_vectors, scales=VECTORS),
    "φ₊ only": partial(
        positive_only, short=(0.0, 0.5, 1.0, 1.5, 2.0), longer=(0.0, 0.25, 0.5, 0.75, 1.0)
    ),
    "reward soup": reward_soup,
    "mixed DPO": mixed,
    "safe-first labels": safe_first_labels,
    "harmless, then helpful": safe_then_helpful,
    "contrastive SFT": partial(contrastive_sft, scales=(0.0, 0.25, 0.5, 0.75, 1.0)),
    "logit mixing": partial(logit_mixing, scales=(0.0, 0.5, 1.0, 1.5)),
    "activation addition": partial(activation_addition, scales=(0.0, 1.0, 2.0, 3.0)),
    "system prompt": system_prompt,
}


def measure(
    workshop: Workshop,
    found: dict[str, Any],
    methods: Sequence[str],
    keep: Callable[[], None],
) -> None:
    """Measure every setting that is not known yet."""
    points: dict[str, Any] = found.setdefault("points", {})
    base = ModelPolicy(workshop.plain, workshop.tokenizer)
    prompts = found["prompts"]

    def known(setting: Setting) -> None:
        if setting.name not in points:
            point = place(setting.policy(), base, prompts=prompts, seed=workshop.seed)
            points[setting.name] = {"method": setting.method, "dials": setting.dials, **point}
            keep()
            shown = ", ".join(f"{key} {value:.2f}" for key, value in figures(point).items())
            print(f"{setting.name}: {shown}", flush=True)

    known(Setting("base", {}, lambda: base))
    for method in methods:
        workshop.used.clear()
        for setting in METHODS[method](workshop):
            known(setting)
        runs = workshop.used.values()
        found.setdefault("costs", {})[method] = {
            "runs": len(runs),
            "tokens": sum(run.tokens for run in runs),
            "seconds": sum(run.seconds for run in runs),
        }
        keep()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="figures, also to continue from")
    parser.add_argument(
        "--also", type=Path, nargs="*", default=[], help="figures of other seeds, shown with these"
    )
    parser.add_argument("--picture", type=Path, help="where the picture goes, a PNG")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0, help="of pairs, training and sampling")
    parser.add_argument("--prompts", type=int, default=400, help="prompts of either kind")
    parser.add_argument("--steps", type=int, default=80, help="steps of one pole")
    options = parser.parse_args(arguments)
    asked = {"seed": options.seed, "prompts": options.prompts, "steps": options.steps}
    found: dict[str, Any] = asked
    if options.json.exists():
        found = json.loads(options.json.read_text("utf-8"))
        if differing := [key for key, value in asked.items() if found[key] != value]:
            parser.error(f"{options.json} was measured with another {', '.join(differing)}.")

    def keep() -> None:
        partial_file = options.json.with_suffix(".partial")
        partial_file.write_text(json.dumps(found, ensure_ascii=False) + "\n", "utf-8")
        partial_file.replace(options.json)

    folder = options.json.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    measure(Workshop(folder, options.seed, options.steps), found, options.methods, keep)
    shown = [found, *(json.loads(path.read_text("utf-8")) for path in options.also)]
    print(tables(shown))
    if options.picture:
        draw(shown, options.picture)


if __name__ == "__main__":
    main()
