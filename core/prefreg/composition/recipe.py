"""What a composition says about itself: its recipe to programs, its model card to people.

The cards of a checkpoint and an adapter have the same header, which the Hub accepts, and the same
table of terms; each adds what is true of it alone.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import CONFIG_FILE, Checkpoint, read_companion
from prefreg.composition.plan import Plan
from prefreg.composition.rounding import FAITHFUL_GAIN, Rounding, Survival
from prefreg.json_values import fields_to_json
from prefreg.terms import format_eta
from prefreg.vectors.stored import DTYPE_NAMES

SCHEMA = 1

_NEAREST = Rounding()


def recipe(
    plan: Plan,
    *,
    dtype: str | None,
    max_shard_size: str | None = None,
    rounding: Rounding = _NEAREST,
    files: Mapping[str, str] | None,
    survival: Survival | None,
) -> dict[str, Any]:
    """Return all that is needed to make the same folder again, and to check it."""
    base = plan.base
    return {
        "schema": SCHEMA,
        "formula": plan.formula,
        "method": plan.method.name,
        "options": dict(plan.options),
        "rule": plan.rule,
        "dtype": DTYPE_NAMES[dtype] if dtype else None,
        "max_shard_size": max_shard_size,
        "rounding": {"kind": rounding.kind, "seed": rounding.seed},
        "base": {
            "name": base.name,
            "revision": base.revision,
            "weights": base.fingerprint.weights,
            "tokenizer": base.fingerprint.tokenizer,
            "template": base.fingerprint.template,
            **({"gguf": fields_to_json(base.gguf)} if base.gguf else {}),
        },
        "terms": [
            {
                "axis": term.record.axis,
                "version": term.record.number,
                "eta": term.eta,
                "rules": [rule.to_json() for rule in term.rules],
                "sha256": term.record.sha256,
            }
            for term in plan.terms
        ],
        "licences": plan.licences.to_json(),
        "survival": survival.to_json() if survival else None,
        "files": dict(sorted(files.items())) if files is not None else None,
    }


def recipe_file(content: Mapping[str, Any]) -> bytes:
    """Return the recipe as the bytes of its file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def config_file(checkpoint: Checkpoint, dtype: str | None) -> bytes:
    """Return the base's configuration, byte for byte unless its dtype changes."""
    raw = read_companion(checkpoint.path / CONFIG_FILE)
    if dtype is None:
        return raw
    config = json.loads(raw)
    changed = _with_dtype(config, DTYPE_NAMES[dtype])
    if not {"dtype", "torch_dtype"} & changed.keys():
        changed["dtype"] = DTYPE_NAMES[dtype]
    if changed == config:
        return raw
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _with_dtype(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    # Models of several parts repeat the dtype in the configuration of each part.
    changed = dict(config)
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            changed[key] = name
        elif key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            changed[key] = _with_dtype(value, name)
    return changed


def checkpoint_card(
    plan: Plan,
    *,
    dtype: str | None,
    rounding: Rounding,
    files: Mapping[str, str] | None,
    survival: Survival | None,
) -> bytes:
    """Return the card of a whole checkpoint."""
    story = (
        "A language model composed by prefreg from a base and preference vectors, "
        f"θ = θ_base + {plan.rule}, without training (method {plan.method.name}, "
        f"{plan.method.paper}). Sums are float32, in the order of the axes' "
        f"names, rounded once ({rounding.kind}) to "
        f"{DTYPE_NAMES[dtype] if dtype else 'the dtypes of the base'}."
    )
    return _card(
        plan,
        library="transformers",
        relation="merge",
        tag="merge",
        title=plan.formula,
        story=story,
        kept=_survival_lines(survival),
        files=files,
    )


def adapter_card(plan: Plan, *, files: Mapping[str, str], told: str | None) -> bytes:
    """Return the card of a PEFT adapter, with what is told of a bound on its rank."""
    return _card(
        plan,
        library="peft",
        relation="adapter",
        tag="lora",
        title=plan.formula.removeprefix("base").removeprefix(" + ").strip(),
        story="A LoRA adapter composed by prefreg from preference vectors, Σ ηᵢ·φᵢ, "
        "without training. Factors are concatenated, never added, and the coefficients are in the "
        "factors: load it with a weight of 1.",
        kept=[told, ""] if told else [],
        files=files,
    )


def _card(
    plan: Plan,
    *,
    library: str,
    relation: str,
    tag: str,
    title: str,
    story: str,
    kept: Iterable[str],
    files: Mapping[str, str] | None,
) -> bytes:
    base = plan.base
    header = ["---", f"library_name: {library}", "pipeline_tag: text-generation"]
    if base.revision is not None:
        header.append(f"base_model: {json.dumps(base.name)}")
    header.append(f"base_model_relation: {relation}")  # the Hub would guess it by the files
    header += plan.licences.card_header()
    header += ["tags:", "- prefreg", "- preference-vectors", f"- {tag}", "---", ""]
    lines = [
        f"# {title}",
        "",
        story,
        "",
        f"Base: `{_public_name(base)}`, weights `{base.fingerprint.weights}`",
        "",
        "| axis | version | η | sha256 of the vector |",
        "|---|---|---|---|",
        *(
            f"| {term.record.axis} | {term.record.number} | {format_eta(term.eta)} "
            f"| `{term.record.sha256}` |"
            for term in plan.terms
        ),
        "",
        *kept,
        *plan.licences.card_lines(),
        *_hash_lines(files),
        "`prefreg.json` holds the same as a recipe.",
    ]
    return ("\n".join([*header, *lines]) + "\n").encode()


def _public_name(base: BaseModel) -> str:
    # The card is made to be published; the path of a folder is nobody else's business, and what
    # Markdown makes of its name is not to be known.
    known = base.revision or base.bundled
    return str(base) if known else re.sub(r"[^\w .@+-]", "_", Path(base.name).name)


def _hash_lines(files: Mapping[str, str] | None) -> list[str]:
    if files is None:
        return []
    rows = (f"| {name} | `{digest}` |" for name, digest in sorted(files.items()))
    return ["| file | sha256 |", "|---|---|", *rows, ""]


def _survival_lines(survival: Survival | None) -> list[str]:
    if survival is None:
        return []
    line = (
        f"Rounding changed {survival.total.changed:.1%} of the weights that were to change "
        f"and kept {survival.gain:.1%} of the requested change."
    )
    if not survival.faithful:
        line += (
            f" That is less than {FAITHFUL_GAIN:.0%}: stochastic rounding or a wider dtype is "
            "nearer to the request."
        )
    rows = (
        f"| {name} | {kept.changed:.4f} | {kept.gain:.4f} | {kept.norm_ratio:.4f} "
        f"| {kept.cosine:.4f} |"
        for name, kept in survival.groups.items()
    )
    head = ["| modules | changed | gain | norm ratio | cosine |", "|---|---|---|---|---|"]
    return [line, "", *head, *rows, ""]
