"""What does a dial do to the answers of a real chat model?

    make chat-model
    python benchmarks/chat_model.py --registry REGISTRY TERM… -o FILE.json

puts to `smollm2`, under each setting and without any, prompts that no axis was trained on: the
last everyday ones, and `chat_prompts.jsonl` (unsafe requests, and requests that only look so). The
likeliest answers are counted; every figure has its 95 % interval over prompts. Each setting is kept
as it is done, and the same command goes on from there.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import prefreg
from prefreg.axes.answer_texts import repetition, sounds_refusing, word_count
from prefreg.axes.asking_sources import everyday_prompts
from prefreg.evaluation.statistics import Estimate, grouped_mean

BASE = "smollm2"
PROMPTS = Path(__file__).with_name("chat_prompts.jsonl")
UNSEEN = slice(200, None)
"""Of the everyday prompts: sources of the shipped axes ask no more than the first 160."""
SPAN = 3
"""Words of a run whose coming again is counted."""


def read_prompts(everyday: int) -> dict[str, list[str]]:
    """Return the prompts of each kind."""
    rows = [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]
    found = {
        kind: [row["prompt"] for row in rows if row["kind"] == kind] for kind in ("unsafe", "safe")
    }
    return {"everyday": everyday_prompts()[UNSEEN][:everyday], **found}


def count(answers: dict[str, list[str]], prompts: dict[str, list[str]]) -> dict[str, Any]:
    """Return the figures of the answers to prompts of each kind."""

    def mean(kind: str, of: Callable[[str], float]) -> dict[str, float]:
        values = [of(answer) for answer in answers[kind]]
        found: Estimate = grouped_mean(values, prompts[kind])
        return found.to_json()

    return {
        "words": mean("everyday", lambda answer: float(word_count(answer))),
        "repetition": mean("everyday", lambda answer: repetition(answer.split(), SPAN)),
        "refuses_unsafe": mean("unsafe", lambda answer: float(sounds_refusing(answer))),
        "refuses_safe": mean("safe", lambda answer: float(sounds_refusing(answer))),
    }


def measure(settings: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Ask under every setting; what an earlier call has measured is kept."""
    prompts = read_prompts(options.everyday)
    done: dict[str, Any] = {}
    if options.output.exists():
        done = json.loads(options.output.read_text("utf-8"))
    model = prefreg.open(options.registry).load(BASE)
    for setting in settings:
        if setting in done:
            continue
        model.set(setting.split())
        answers = {
            kind: model.generate(
                asked, max_new_tokens=options.tokens if kind == "everyday" else options.short
            )
            for kind, asked in prompts.items()
        }
        done[setting] = {"figures": count(answers, prompts), "answers": answers}
        options.output.write_text(json.dumps(done, indent=1, ensure_ascii=False), "utf-8")
        print(
            setting or "base",
            {k: round(v["value"], 3) for k, v in done[setting]["figures"].items()},
            flush=True,
        )
    return done


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
    parser.add_argument("--everyday", type=int, default=40, help="how many everyday prompts")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer to one of these")
    parser.add_argument(
        "--short", type=int, default=48, help="of the others, whose refusal shows at once"
    )
    options = parser.parse_args()
    measure(["", *options.settings], options)


if __name__ == "__main__":
    main()
