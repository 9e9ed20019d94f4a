"""The identity of a base model: what its weights, tokenizer and chat template contain."""

import hashlib
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefreg.checkpoints.checkpoint import (
    VOCABULARIES,
    Checkpoint,
    StoredTensor,
    read_companion,
)
from prefreg.checkpoints.safetensors_file import read_into
from prefreg.checkpoints.tensor_names import weight_shapes
from prefreg.config import cache_folder
from prefreg.errors import BaseModelError, unreadable
from prefreg.files import hash_bytes, write_whole
from prefreg.json_values import fields_to_json, parse_json

_FORMAT = 1
_BLOCK_BYTES = 1 << 20
_THREADS = 4
# A file this young may change again within the resolution of its time, as git knows it.
_SETTLED_NS = 1_000_000_000
_VOCABULARY = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a base model is, whatever it is called and however it is sharded."""

    weights: str
    """sha256 over the sorted names, dtypes, shapes and contents of its tensors."""
    tokenizer: str | None
    template: str | None
    configuration: str
    """sha256 of what else decides on answers: how the model computes and how it ends them."""
    parameters: int
    """Trainable weights, each tied one counted once."""
    dtype: str
    """The safetensors dtype of most weights."""


@dataclass(frozen=True, slots=True)
class _Weights:
    weights: str
    parameters: int
    dtype: str


def fingerprint(checkpoint: Checkpoint, cache: Path | None = None) -> Fingerprint:
    """Fingerprint a checkpoint, remembering its weights' part below `cache` (`PREFREG_CACHE`)."""
    key, settled = _stamp(checkpoint)
    entry = (cache or cache_folder()) / "weights" / f"{key}.json"
    known = _recall(entry)
    if known is None:
        known = _measure(checkpoint)
        if settled:
            _remember(entry, known)
    return Fingerprint(
        weights=known.weights,
        tokenizer=_tokenizer(checkpoint.path),
        template=_template(checkpoint.path),
        configuration=_configuration(checkpoint),
        parameters=known.parameters,
        dtype=known.dtype,
    )


def _measure(checkpoint: Checkpoint) -> _Weights:
    tensors = sorted(checkpoint.tensors.items())
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(_hash_tensor, (tensor for _, tensor in tensors)))
    total = hashlib.sha256()
    for (name, tensor), digest in zip(tensors, hashes, strict=True):
        line = [name, tensor.spec.dtype, list(tensor.spec.shape), digest]
        total.update(json.dumps(line).encode() + b"\n")
    weights = weight_shapes(checkpoint)
    by_dtype: Counter[str] = Counter()
    for name in weights or checkpoint.tensors:
        spec = checkpoint.tensors[name].spec
        by_dtype[spec.dtype] += spec.elements
    return _Weights(
        weights=total.hexdigest(),
        parameters=sum(checkpoint.tensors[name].spec.elements for name in weights),
        dtype=max(sorted(by_dtype), key=by_dtype.__getitem__),
    )


def _hash_tensor(tensor: StoredTensor) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, tensor.spec.nbytes)))
    try:
        with tensor.file.open("rb") as stream:
            for start in range(0, tensor.spec.nbytes, _BLOCK_BYTES):
                block = buffer[: min(_BLOCK_BYTES, tensor.spec.nbytes - start)]
                read_into(stream.fileno(), tensor.spec.offset + start, block)
                digest.update(block)
    except (OSError, EOFError) as error:
        raise unreadable(tensor.file, error, BaseModelError) from error
    return digest.hexdigest()


def _stamp(checkpoint: Checkpoint) -> tuple[str, bool]:
    stamps: list[Any] = [_FORMAT, checkpoint.tied]
    newest = 0
    for shard in checkpoint.shards:
        path = checkpoint.path / shard
        try:
            stat = path.stat()
        except OSError as error:
            raise unreadable(path, error, BaseModelError) from error
        stamps.append([os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino])
        newest = max(newest, stat.st_mtime_ns)
    key = hash_bytes(json.dumps(stamps).encode())
    return key, newest < time.time_ns() - _SETTLED_NS


def _recall(entry: Path) -> _Weights | None:
    try:
        found = _Weights(**parse_json(entry.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # absent, or a damaged cache: both mean measuring again
    sound = isinstance(found.weights, str) and len(found.weights) == 64
    sound = sound and isinstance(found.dtype, str) and isinstance(found.parameters, int)
    return found if sound else None


def _remember(entry: Path, known: _Weights) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs time
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_whole(entry, json.dumps(fields_to_json(known)))


def _configuration(checkpoint: Checkpoint) -> str:
    generation = _read_json(checkpoint.path / "generation_config.json")
    return hash_bytes(json.dumps([checkpoint.config, generation], sort_keys=True).encode())


def _tokenizer(folder: Path) -> str | None:
    files = [folder / name for name in _VOCABULARY if (folder / name).is_file()]
    rarer = (path for pattern in VOCABULARIES for path in folder.glob(pattern) if path.is_file())
    parts = [[path.name, hash_bytes(read_companion(path))] for path in files or sorted(rarer)]
    if not parts:
        return None
    settings = _read_json(folder / "tokenizer_config.json")
    settings.pop("chat_template", None)
    return hash_bytes(json.dumps([parts, settings], sort_keys=True).encode())


def _template(folder: Path) -> str | None:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return hash_bytes(read_companion(jinja))
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _read_json(folder / name).get("chat_template")
        if template is not None:
            text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
            return hash_bytes(text.encode(errors="surrogatepass"))
    return None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = parse_json(read_companion(path))
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON. Fetch it again.") from error
    return value if isinstance(value, dict) else {}
