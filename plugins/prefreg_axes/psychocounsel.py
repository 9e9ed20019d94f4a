"""psychocounsel: replies as a counsellor would, against worse replies."""

import prefreg
from prefreg import Axis, LicensedSource, PreferencePair, Row, SourceRequest, SourceRows
from prefreg_axes.labels import prefer_chosen

_DATASET = "Psychotherapy-LLM/PsychoCounsel-Preference"


def load_psychocounsel(request: SourceRequest) -> SourceRows:
    """Stream PsychoCounsel-Preference from the hub."""
    columns = ("question", "chosen", "rejected")
    return prefreg.stream_hub_rows(_DATASET, request=request, columns=columns)


def label(row: Row) -> PreferencePair:
    """Prefer the chosen response."""
    return prefer_chosen(row, prompt="question")


@prefreg.hookimpl
def prefreg_register_axes() -> list[Axis]:
    """Register the axis."""
    return [
        Axis(
            name="psychocounsel",
            summary="Replies to clients as a skilled counsellor would.",
            aliases=("counsel",),
            sources={
                "psychocounsel-preference": LicensedSource(
                    load_psychocounsel, _DATASET, "CC-BY-NC-4.0"
                )
            },
            label=label,
        )
    ]
