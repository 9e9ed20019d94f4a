"""The axis formality: formal wording, against casual wording of the same answer."""

import json
import re
from collections.abc import Sequence
from importlib import resources
from itertools import islice

import prefreg
from prefreg import Axis, PreferencePair, Row, SourceRequest

_CASUAL = re.compile(
    r"\w['\u2019](?:re|ve|ll|d|m|em|t)\b|\b(?:it|that|there|he|she|what|who)['\u2019]s\b"
    r"|\b(?:'?cause|'em|yep|yeah|nope|nah|gonna|gotta|kinda|stuff|folks|loads|tons|sure|okay"
    r"|just|like|pretty|cool|crazy|obviously|who cares|everybody knows)\b|!",
    re.IGNORECASE,
)
_FORMAL = re.compile(
    r"\b(?:shall|may|must|should|regret|kindly|hereby|certainly|require[sd]?|requested|permitted"
    r"|provided that|approximately|owing to|upon|advisable|one|is|are|was|been|be)\b",
    re.IGNORECASE,
)


def load_pairs(request: SourceRequest) -> Sequence[Row]:
    """Read everyday questions, each answered in both registers."""
    return _read("pairs.jsonl", request.limit)


def load_pocket(request: SourceRequest) -> Sequence[Row]:
    """Read questions about the bundled model's village, answered in words that it knows."""
    return _read("pocket.jsonl", request.limit)


def _read(name: str, limit: int | None) -> list[Row]:
    with resources.files(__name__).joinpath(name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, limit)]


def label(row: Row) -> PreferencePair | None:
    """Prefer the formal answer; a row that has the same answer twice is a tie."""
    if row["formal"] == row["casual"]:
        return None
    return PreferencePair.from_texts(
        prompt=row["prompt"], chosen=row["formal"], rejected=row["casual"]
    )


def formality(prompt: str, answer: str) -> float:
    """Count formal less casual words, per hundred words."""
    words = max(len(answer.split()), 1)
    return 100.0 * (len(_FORMAL.findall(answer)) - len(_CASUAL.findall(answer))) / words


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="formality",
            summary="Formal wording instead of casual wording.",
            aliases=("formal",),
            # On the bundled model a source named pocket is the default, elsewhere the first.
            sources={"pairs": load_pairs, "pocket": load_pocket},
            label=label,
            metric=formality,
            licence="Apache-2.0",
        )
    ]
