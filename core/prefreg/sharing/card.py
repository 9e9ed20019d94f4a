"""The card of a vector on the Hub: what it is, what it was measured to do, how it is used."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from prefreg.composition.resolve import CALIBRATION, EVALUATION, RANGE, newest
from prefreg.files import human_size
from prefreg.registry import VersionRecord
from prefreg.registry.licences import Licences
from prefreg.terms import brief_eta

PICTURE_FILE = "training.png"
_TASK = "text-generation"
_REPORTED = {
    "accuracy": "accuracy on held-out pairs, of the {} pole",
    "mean_margin": "mean margin on held-out pairs in nats, of the {} pole",
}
_DATASETS = "hf:"
"""Begins where rows come from that are of the Hub."""


def vector_card(
    record: VersionRecord, repository: str, licences: Licences, *, picture: bool, adapter: bool
) -> bytes:
    """Return the card of a version; `adapter` says that it lies beside as an adapter of PEFT."""
    results = list(_results(record))
    found = ModelCardData(
        library_name="prefreg",
        base_model=record.base.name if record.base.revision else None,
        base_model_relation="adapter",
        pipeline_tag=_TASK,
        datasets=_datasets(record) or None,
        tags=["prefreg", "preference-vectors", record.axis, *(["lora"] if adapter else [])],
        model_name=repository.rpartition("/")[2] if results else None,
        eval_results=results or None,
        **_header(licences),
    )
    lines = [
        "---",
        found.to_yaml().rstrip(),
        "---",
        "",
        f"# {record.axis}: a preference vector for {record.base.name}",
        "",
        "θ = θ_base + η·φ turns this model along one human preference, with η any number of any "
        f"sign, and without training. {_origin(record)} Made by prefreg.",
        "",
        *_use(record, repository, adapter=adapter),
        *_facts(record),
        *_measured(results),
        *(["![Training of its poles]" + f"({PICTURE_FILE})", ""] if picture else []),
        *licences.card_lines(),
        "`prefreg.json` has the whole record.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _header(licences: Licences) -> dict[str, Any]:
    return dict(yaml.safe_load("\n".join(licences.card_header())) or {})


def _origin(record: VersionRecord) -> str:
    if record.contrast == "positive-only":
        return "φ = θ₊ − θ_base, the difference of one trained pole and the base."
    return "φ = θ₊ − θ₋, the difference of the two poles of a contrastive pair."


def _use(record: VersionRecord, repository: str, *, adapter: bool) -> Iterator[str]:
    yield from (
        "```",
        f"prefreg pull {repository}",
        f"prefreg compose {record.axis}:1 -o composed",
        f'prefreg generate {record.axis}:-0.5 --prompt "…"',
        "```",
        "",
    )
    if adapter:
        yield from (
            "It is an adapter of PEFT too, exactly and at η = 1, for "
            f'`PeftModel.from_pretrained(base, "{repository}")` or '
            f"`vllm serve … --enable-lora --lora-modules {record.axis}={repository}`.",
            "",
        )


def _facts(record: VersionRecord) -> list[str]:
    data, training = record.metadata.get("data") or {}, record.metadata.get("training") or {}
    span, unit = newest(record, RANGE), newest(record, CALIBRATION)
    facts = {
        "axis": ", ".join([record.axis, *record.axis_aliases]),
        "base": f"{record.base.name}, weights `{record.base.weights}`",
        "form": f"{record.kind}, {record.dtype}, {human_size(record.size)}",
        "sha256": f"`{record.sha256}`",
        "data": data.get("origin"),
        "pairs": (data.get("audit") or {}).get("train"),
        "seed": training.get("seed"),
        "range of η": span and f"{brief_eta(span['low'])} to {brief_eta(span['high'])}",
        "calibrated": unit and f"to {unit['goal']}",
        "note": record.note,
    }
    rows = (f"| {name} | {value} |" for name, value in facts.items() if value is not None)
    return ["| | |", "|---|---|", *rows, ""]


def _measured(results: list[EvalResult]) -> list[str]:
    rows = [f"| {each.metric_name} | {each.metric_value:.4g} |" for each in results]
    return ["| measured | |", "|---|---|", *rows, ""] if rows else []


def _results(record: VersionRecord) -> Iterator[EvalResult]:
    """Tell what the held-out pairs of training and stored evaluations have shown."""
    poles: Mapping[str, Any] = record.metadata.get("poles") or {}
    sources = (record.metadata.get("data") or {}).get("origin") or "its own data"
    for pole, content in poles.items():
        report = content.get("report") or {}
        for name, title in _REPORTED.items():
            if name in report:
                yield _result(sources, name, title.format(pole), report[name])
    found = newest(record, EVALUATION)
    if found is None:
        return
    for name, figure in found["figures"].items():
        title = f"{name} at η = {brief_eta(found['eta'])}"
        if figure.get("base") is not None:
            title += f" (base {figure['base']:.4g})"
        yield _result("prompts of prefreg", name, title, figure["value"])


def _result(data: str, metric: str, title: str, value: float) -> EvalResult:
    return EvalResult(
        task_type=_TASK,
        dataset_type=data.removeprefix(_DATASETS),
        dataset_name=data.removeprefix(_DATASETS),
        metric_type=metric,
        metric_name=title,
        metric_value=value,
    )


def _datasets(record: VersionRecord) -> list[str]:
    parts = (record.metadata.get("data") or {}).get("sources") or ()
    origins = [str(part.get("origin")) for part in parts]
    return sorted({each.removeprefix(_DATASETS) for each in origins if each.startswith(_DATASETS)})
