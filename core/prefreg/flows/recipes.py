"""Recipe files: a composition written down, such as the `prefreg.json` of an output."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from prefreg.composition.eta import read_rule
from prefreg.composition.recipe import SCHEMA
from prefreg.errors import PrefregError, UsageError
from prefreg.flows.compose import CompositionRequest
from prefreg.terms import Term, parse_reference


def read_recipe(path: Path, **options: Any) -> CompositionRequest:
    """Read a recipe, such as the `prefreg.json` of an output; options given win over it.

    Raises:
        UsageError: The file is no recipe.
    """
    try:
        content = _parse(path.read_text(encoding="utf-8"))
        given = {key: value for key, value in options.items() if _is_given(value)}
        return _read_recipe(content, given)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no recipe: {reason}.") from error
    except PrefregError as error:
        raise UsageError(f"{path} is no recipe: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is no recipe: it needs 'schema', 'base' and 'terms' with axis, eta and "
            f"version ({type(error).__name__}: {error})."
        ) from error


def _parse(text: str) -> Any:
    """Read JSON, as outputs hold it, else YAML, which refuses some characters of folder names."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != ()


def _read_recipe(content: Any, options: Mapping[str, Any]) -> CompositionRequest:
    if not isinstance(content, Mapping):
        raise UsageError("it holds no mapping with 'schema', 'base' and 'terms'.")
    if content["schema"] != SCHEMA:
        raise UsageError(f"Only schema {SCHEMA} is known.")
    terms, hashes, rules = [], [], []
    for item in content["terms"]:
        axis, _ = parse_reference(str(item["axis"]))
        version = item.get("version")
        terms.append(Term(axis, float(item["eta"]), None if version is None else str(version)))
        rules += [(axis, read_rule(rule)) for rule in item.get("rules", ())]
        if "sha256" in item:
            hashes.append((axis, str(item["sha256"])))
    base = content["base"]
    spec = f"{base['name']}@{base['revision']}" if base.get("revision") else str(base["name"])
    known: dict[str, Any] = {
        "base": spec,
        "dtype": content.get("dtype"),
        "max_shard_size": content.get("max_shard_size"),
        "rounding": str((content.get("rounding") or {}).get("kind", "nearest")),
        "seed": int((content.get("rounding") or {}).get("seed", 0)),
        "hash_files": content.get("files") is not None,
    }
    known |= {"form": content.get("as", "checkpoint"), "max_rank": content.get("max_rank")}
    method = str(content.get("method", "linear"))
    settings = {} if options.get("method", method) != method else content.get("options") or {}
    known |= {"method": method, **options}
    known["options"] = tuple({**settings, **dict(options.get("options", ()))}.items())
    return CompositionRequest(tuple(terms), rules=tuple(rules), hashes=tuple(hashes), **known)
