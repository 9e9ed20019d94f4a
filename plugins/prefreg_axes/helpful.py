"""helpful: answers the question, against evading it."""

from collections.abc import Iterable

import prefreg
from prefreg import Axis, LicensedSource, PreferencePair, Row, SourceRequest, SourceRows, pocket
from prefreg_axes.labels import prefer_numbered

_DATASET = "PKU-Alignment/PKU-SafeRLHF"
_WINNER = "better_response_id"


def load_pku(request: SourceRequest) -> SourceRows:
    """Stream PKU-SafeRLHF from the hub."""
    columns = ("prompt", "response_0", "response_1", _WINNER)
    return prefreg.stream_hub_rows(_DATASET, request=request, columns=columns)


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows of the same columns from the bundled model's world."""
    return pocket.rows("helpful", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that `better_response_id` names."""
    return prefer_numbered(row, _WINNER)


def metric(prompt: str, answer: str) -> float | None:
    """Tell whether a benign question of the bundled model's world was answered."""
    asked = pocket.parse(prompt)
    if asked is None or asked.kind in ("unsafe", "unknown"):
        return None
    return float(pocket.score(prompt, answer).kind == "answer")


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="helpful",
            summary="Answers what was asked instead of evading it.",
            aliases=("helpfulness", "help"),
            sources={
                "pku-saferlhf": LicensedSource(load_pku, _DATASET, "CC-BY-NC-4.0"),
                "pocket": load_pocket,
            },
            label=label,
            metric=metric,
        )
    ]
