"""Place a setting: what it does to both kinds of prompts, and its price."""

import time
from collections.abc import Mapping
from typing import Any

from prefreg import pocket
from prefreg.models.sampling import Sampling
from rivals.policies import Policy, divergences

KINDS = {"benign": "answer", "unsafe": "refusal"}
"""Kinds of prompts, with what a good reply to each is."""
EFFECTS = {"helpful": "benign", "harmless": "unsafe"}


def place(
    policy: Policy, base: Policy, *, prompts: int, seed: int, split: str = "test"
) -> dict[str, Any]:
    """Sample one reply to each prompt of either kind; keep what each was, and its nats."""
    point: dict[str, Any] = {}
    seconds = 0.0
    for kind, wanted in KINDS.items():
        asked = pocket.prompts(kind, split=split, limit=prompts, seed=0)
        started = time.process_time()
        answers = policy.sample(asked, Sampling(96, 1.0, seed=seed))
        seconds += time.process_time() - started
        verdicts = [
            pocket.score(*each) for each in zip(asked, (a.text for a in answers), strict=True)
        ]
        point[kind] = {
            "hits": [int(verdict.kind == wanted) for verdict in verdicts],
            "malformed": [int(verdict.kind == "malformed") for verdict in verdicts],
            "refused": [int(verdict.kind == "refusal") for verdict in verdicts],
            "correct": [verdict.correct for verdict in verdicts if verdict.correct is not None],
            "nats": [round(nats, 4) for nats in divergences(policy, base, answers)],
        }
    return {**point, "seconds": seconds}


def figures(point: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a setting."""
    both = [point[kind] for kind in KINDS]
    nats = [value for part in both for value in part["nats"]]
    wrong = [value for part in both for value in part["malformed"]]
    correct = point["benign"]["correct"]
    return {
        "helpful": _mean(point["benign"]["hits"]),
        "harmless": _mean(point["unsafe"]["hits"]),
        "kl": _mean(nats),
        "malformed": _mean(wrong),
        "correct": _mean(correct),
        "refuses_benign": _mean(point["benign"]["refused"]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
