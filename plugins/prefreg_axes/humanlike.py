"""humanlike: talks as people do, against the manner of an assistant."""

import prefreg
from prefreg import Axis, LicensedSource, PreferencePair, Row, SourceRequest, SourceRows
from prefreg_axes.labels import prefer_chosen

_DATASET = "HumanLLMs/Human-Like-DPO-Dataset"


def load_human_like(request: SourceRequest) -> SourceRows:
    """Stream Human-Like-DPO from the hub."""
    columns = ("prompt", "chosen", "rejected")
    return prefreg.stream_hub_rows(_DATASET, request=request, columns=columns)


def label(row: Row) -> PreferencePair:
    """Prefer the chosen response."""
    return prefer_chosen(row)


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="humanlike",
            summary="Talks as people do instead of as an assistant.",
            aliases=("human",),
            sources={"human-like-dpo": LicensedSource(load_human_like, _DATASET, "llama3")},
            label=label,
        )
    ]
