"""What was measured, kept by what was measured and how: a file a part, below `PREFREG_CACHE`."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefreg.config import cache_folder

FORMAT = 1
"""Raised when measuring changes, so that nothing older is taken for new."""


def digest(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class EvaluationCache:
    """Results by the hash of a composition, the part that was measured and its protocol."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep results below `folder`, by default `PREFREG_CACHE/evaluations`."""
        self._folder = folder or cache_folder() / "evaluations"

    def read(self, composition: str, part: str, protocol: Mapping[str, Any]) -> Any | None:
        """Return a result; None where there is none, or a damaged file."""
        try:
            kept = json.loads(self._path(composition, part, protocol).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return kept.get("result") if isinstance(kept, dict) else None

    def write(self, composition: str, part: str, protocol: Mapping[str, Any], result: Any) -> None:
        """Keep a result; a cache that cannot be written only costs time."""
        path = self._path(composition, part, protocol)
        kept = {"protocol": dict(protocol), "result": result}
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(kept, file, ensure_ascii=True)
                os.replace(name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise

    def _path(self, composition: str, part: str, protocol: Mapping[str, Any]) -> Path:
        key = digest({"format": FORMAT, "part": part, "protocol": dict(protocol)})
        return self._folder / composition[:2] / composition / f"{part}-{key[:32]}.json"
