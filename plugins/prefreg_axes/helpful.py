"""helpful: answers the question, against evading it."""

from collections.abc import Iterable

import prefreg
from prefreg import Axis, PreferencePair, Row, SourceRequest, SourceRows, pocket
from prefreg_axes.labels import prefer_numbered

_DATASET = "PKU-Alignment/PKU-SafeRLHF"


def load_pku(request: SourceRequest) -> SourceRows:
    """Stream PKU-SafeRLHF from the hub."""
    return prefreg.stream_hub_rows(_DATASET, request=request)


def load_pocket(request: SourceRequest) -> Iterable[Row]:
    """Draw rows of the same columns from the bundled model's world."""
    return pocket.rows("helpful", seed=request.seed, limit=request.limit)


def label(row: Row) -> PreferencePair | None:
    """Prefer the response that `better_response_id` names."""
    return prefer_numbered(row, "better_response_id")


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="helpful",
            summary="Answers what was asked instead of evading it.",
            aliases=("helpfulness", "help"),
            sources={"pku-saferlhf": load_pku, "pocket": load_pocket},
            label=label,
            licence="CC-BY-NC-4.0",
        )
    ]
