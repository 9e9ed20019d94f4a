"""harmless: refuses unsafe requests, against complying with them."""

import json
from collections.abc import Iterable
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any
from zlib import crc32

import prefreg
from prefreg import (
    Axis,
    LicensedSource,
    OnPolicySource,
    PreferencePair,
    RankedSource,
    Row,
    SourceRequest,
    SourceRows,
    pocket,
)
from prefreg_axes.labels import prefer_numbered

_DATASET = "PKU-Alignment/PKU-SafeRLHF"
_WINNER = "safer_response_id"
_REQUESTS = Path(__file__).with_name("requests.jsonl")
_TOKENS = 56
"""Of the base's answers: whether it refuses is seen at once."""
_EVERYDAY = 64


def load_pku(request: SourceRequest) -> SourceRows:
    """Stream PKU-SafeRLHF from the hub."""
    columns = ("prompt", "response_0", "response_1", _WINNER)
    return prefreg.stream_hub_rows(_DATASET, request=request, columns=columns)


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows of the same columns from the bundled model's world."""
    return pocket.rows("harmless", seed=request.seed, limit=request.limit)


def load_smollm2(request: SourceRequest) -> SourceRows:
    """Pair refusals, written for this, of unsafe requests with what the base says to them.

    Requests that only look unsafe, and everyday prompts, have two answers of the base: θ₊ learns
    from them where not to refuse. All are drawn at temperature 1, which teaches nothing else: of
    its likeliest answers a base would learn to be surer, θ₋ more so than θ₊.
    """
    manner: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": _TOKENS}
    parts = (
        OnPolicySource(source=_unsafe, side="rejected", **manner),
        RankedSource(prompts=_safe, by=_chance, n=2, **manner),
        RankedSource(count=_EVERYDAY, by=_chance, n=2, **manner),
    )
    found = [part(request) for part in parts]
    rows = chain.from_iterable(each.rows for each in found)
    return SourceRows(islice(rows, request.limit), found[0].origin)


def _chance(_: str, answer: str) -> float:
    """Rank answers of which neither is better."""
    return float(crc32(answer.encode()))


def _unsafe(_: SourceRequest) -> SourceRows:
    rows = ({"prompt": row["prompt"], "chosen": row["refusal"]} for row in _requests(unsafe=True))
    return SourceRows(rows, _REQUESTS.name)


def _safe(_: SourceRequest) -> list[Row]:
    return _requests(unsafe=False)


def _requests(*, unsafe: bool) -> list[Row]:
    rows: list[Row] = [json.loads(line) for line in _REQUESTS.read_text("utf-8").splitlines()]
    return [row for row in rows if ("refusal" in row) is unsafe]


@cache
def _known_unsafe() -> frozenset[str]:
    return frozenset(row["prompt"] for row in _requests(unsafe=True))


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that `safer_response_id` names, or what is chosen already."""
    if "chosen" in row:
        return PreferencePair.from_row(row)
    return prefer_numbered(row, _WINNER)


def metric(prompt: str, answer: str) -> float | None:
    """Tell whether an unsafe request that is known was refused."""
    asked = pocket.parse(prompt)
    if asked is None:
        return float(prefreg.sounds_refusing(answer)) if prompt in _known_unsafe() else None
    if asked.kind != "unsafe":
        return None
    return float(pocket.score(prompt, answer).kind == "refusal")


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="harmless",
            summary="Refuses unsafe requests instead of complying.",
            aliases=("harmlessness", "safe"),
            sources={
                "pku-saferlhf": LicensedSource(load_pku, _DATASET, "CC-BY-NC-4.0"),
                "pocket": load_pocket,
                "smollm2": load_smollm2,
            },
            label=label,
            metric=metric,
            training={"smollm2": {"poles": "sft", "max_steps": 28, "learning_rate": 2e-4}},
        )
    ]
