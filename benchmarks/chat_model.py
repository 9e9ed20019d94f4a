"""What does a dial do to the answers of a real chat model?

    make chat-model
    python benchmarks/chat_model.py --registry REGISTRY SETTING… -o FILE.json

puts to `smollm2`, under each setting and without any, prompts that no axis was trained on: the
last everyday ones, and `chat_prompts.jsonl` (unsafe requests, and requests that only look so). The
likeliest answers are counted. Settings that are the same but for the version, such as
`verbosity@2:1` and `verbosity@3:1`, are seeds of one: its figure is their mean with its 95 %
interval over prompts, and the figure of each. Each setting is kept as it is done, and the same
command goes on from there.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import prefreg
from prefreg.axes.answer_texts import repetition, sounds_refusing, word_count
from prefreg.axes.asking_sources import everyday_prompts
from prefreg.evaluation.statistics import Estimate, grouped_mean

BASE = "smollm2"
PROMPTS = Path(__file__).with_name("chat_prompts.jsonl")
UNSEEN = slice(200, None)
"""Of the everyday prompts: sources of the shipped axes ask no more than the first 160."""
KIND = re.compile(
    r"\b(?:thank you|thanks|glad|happy to|pleasure|delighted|please (?:let|feel)|wish you|all the"
    r" best|kind of you|good question|great question|take care|lovely)\b",
    re.IGNORECASE,
)
CURT = re.compile(
    r"\b(?:leave me alone|why ask me|whatever|don't ask|all you get|look it up|dull question"
    r"|all day|everybody knows|waste my time|will have to do|obviously|enough now|fine|done)[.,!?]",
    re.IGNORECASE,
)
SPAN = 3
"""Words of a run whose coming again is counted."""


def read_prompts(everyday: int) -> dict[str, list[str]]:
    """Return the prompts of each kind."""
    rows = [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]
    found = {
        kind: [row["prompt"] for row in rows if row["kind"] == kind] for kind in ("unsafe", "safe")
    }
    return {"everyday": everyday_prompts()[UNSEEN][:everyday], **found}


COUNTED: dict[str, tuple[str, Callable[[str], float]]] = {
    "words": ("everyday", lambda answer: float(word_count(answer))),
    "repetition": ("everyday", lambda answer: repetition(answer.split(), SPAN)),
    "kind": ("everyday", lambda answer: float(bool(KIND.search(answer)))),
    "curt": ("everyday", lambda answer: float(bool(CURT.search(answer)))),
    "refuses_unsafe": ("unsafe", lambda answer: float(sounds_refusing(answer))),
    "refuses_safe": ("safe", lambda answer: float(sounds_refusing(answer))),
}
"""What is counted in answers to prompts of which kind."""


def pool(done: dict[str, Any], prompts: dict[str, list[str]]) -> dict[str, Any]:
    """Return the figures of each setting over its seeds."""
    seeds: dict[str, list[dict[str, list[str]]]] = {}
    for setting, answers in done.items():
        seeds.setdefault(re.sub(r"@\d+", "", setting), []).append(answers)
    found: dict[str, Any] = {}
    for setting, runs in seeds.items():
        figures = found[setting] = {"seeds": len(runs)}
        for name, (kind, of) in COUNTED.items():
            asked = prompts[kind]
            values = [[of(answer) for answer in run[kind][: len(asked)]] for run in runs]
            means = [fmean(column) for column in zip(*values, strict=True)]
            pooled: Estimate = grouped_mean(means, asked)
            figures[name] = pooled.to_json() | {"each": [round(fmean(run), 4) for run in values]}
    return found


def measure(settings: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Ask under every setting; what an earlier call has asked is kept."""
    prompts = read_prompts(options.everyday)
    kept = options.output.with_suffix(".answers.json")
    done: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    model = prefreg.open(options.registry).load(BASE)
    for setting in settings:
        if setting in done:
            continue
        model.set(setting.split())
        done[setting] = {
            kind: model.generate(
                asked, max_new_tokens=options.tokens if kind == "everyday" else options.short
            )
            for kind, asked in prompts.items()
        }
        kept.write_text(json.dumps(done, indent=1, ensure_ascii=False), "utf-8")
        print(f"asked: {setting or 'base'}", flush=True)
    found = pool(done, prompts)
    options.output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for setting, figures in found.items():
        shown = {name: round(figures[name]["value"], 3) for name in COUNTED}
        print(setting or "base", shown, flush=True)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "settings", nargs="+", help="terms of one setting, as in 'harmless:1 verbosity:-1'"
    )
    parser.add_argument("--registry", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--everyday", type=int, default=100, help="how many everyday prompts")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer to one of these")
    parser.add_argument(
        "--short", type=int, default=48, help="of the others, whose refusal shows at once"
    )
    options = parser.parse_args()
    measure(["", *options.settings], options)


if __name__ == "__main__":
    main()
