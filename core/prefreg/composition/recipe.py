"""What a composition says about itself to programs: its recipe, and its small files."""

import json
from collections.abc import Mapping
from typing import Any

from prefreg.checkpoints.checkpoint import CONFIG_FILE, Checkpoint, read_companion
from prefreg.composition.plan import Plan
from prefreg.composition.rounding import Rounding, Survival
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
